"""Figures of samples and of models; host-agnostic."""
