"""A name that MDLM imports; None, as mamba-ssm and transformers write what is missing."""

selective_state_update = None
