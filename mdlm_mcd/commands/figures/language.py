"""A language of eight sentences whose denoiser is exact, for pictures without a model.

A sentence is drawn from eight equally likely ones; then each word is, with probability
`MISPRINT`, replaced by any of the vocabulary. p(x0 | z_t) follows by Bayes' rule, so a
sampler's every error is its own: words that open in one step are drawn as if they did
not depend on one another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...evaluation.candidates import Candidate
from ...sampling import Latent
from .data import STEPS, locked, log_linear

SENTENCES = [
    line.split()
    for line in (
        "a tiny grey mouse crept under the kitchen door and stole a piece of cheese",
        "a great white horse leapt over the garden gate and ate a basket of apples",
        "a hungry black bear walked through the forest camp and found a jar of honey",
        "a clever red fox slipped behind the wooden barn and took a nest of eggs",
        "a sleepy brown dog lay beside the village well and hid a pile of bones",
        "a noisy green parrot flew into the captain's cabin and cracked a bag of nuts",
        "a young striped cat sat near the harbour wall and licked a bowl of cream",
        "a patient old heron stood above the quiet pond and caught a pair of frogs",
    )
]
MISPRINT = 1e-4
BATCH = 500  # sequences from which `shares` are taken

WORDS = sorted({word for sentence in SENTENCES for word in sentence})
MASK_INDEX = len(WORDS)
LENGTH = len(SENTENCES[0])
IDS = torch.tensor([[WORDS.index(word) for word in s] for s in SENTENCES])


class _Words:
    """As much of a tokenizer as the pictures ask for."""

    @staticmethod
    def decode(ids) -> str:
        return " ".join(WORDS[i] for i in ids)


def denoise(z: Tensor, rows: Tensor) -> Tensor:
    """Return log p(x0_i | visible words), exactly; see `sampling` for z and rows."""
    other = MISPRINT / len(WORDS)
    sequence, position = rows.nonzero(as_tuple=True)
    seen = z[sequence, None]  # (rows, 1, length) against (sentences, length)
    agrees = torch.where(seen == IDS, math.log1p(other - MISPRINT), math.log(other))
    agrees = torch.where(seen == MASK_INDEX, 0.0, agrees.double())
    weight = agrees.sum(-1).softmax(-1)
    p = torch.zeros(len(sequence), len(WORDS) + 1, dtype=torch.float64)
    p[:, :MASK_INDEX] = other
    p.scatter_add_(1, IDS.T[position], (1 - MISPRINT) * weight)
    return p.log()


def language() -> Candidate:
    """Return the language as a model: sampled and drawn like any other."""
    return Candidate(
        label="eight sentences",
        denoise=denoise,
        alpha=log_linear,
        mask_index=MASK_INDEX,
        vocab_size=len(WORDS) + 1,
        length=LENGTH,
        tokenizer=_Words(),
    )


def one_of_the_sentences(tokens: Tensor) -> Tensor:
    """Return (batch,) bool for (batch, L) ids: word for word one of the eight."""
    return (tokens[:, None] == IDS).all(-1).any(-1)


def shares(steps=STEPS, batch: int = BATCH, seed: int = 0) -> dict[int, float]:
    """Return the share of `batch` sequences that `locked` ends in one of the sentences."""
    model, found = language(), {}
    for count in steps:
        drawn = locked(model, batch, model.length, count, Latent(seed))
        found[count] = one_of_the_sentences(drawn.tokens).double().mean().item()
    return found
