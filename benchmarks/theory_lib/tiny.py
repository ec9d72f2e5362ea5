"""A language so small that it is enumerated: sequences, states, views, sampler laws.

The language is `bench.language.Language` with its two chains written by hand: a sequence counts
up or counts down (modulo vocab), which is hidden, and slips now and then. A denoiser is a table of
probabilities, one row for each state and position, so a student has no error but its loss's.
Time is log-linear, alpha_t = 1 - t. All float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
import torch
from bench.language import Language
from torch import Tensor

VOCAB, SLIP = 3, 0.1
Law = Callable[[float, float], Tensor]
"""law(t, delta): P(masked_t, masked_s) of one token, (2, 2)."""


def counting(vocab: int = VOCAB, slip: float = SLIP) -> Language:
    """Up (60%) or down (40%) by one; with chance `slip` each, stay or go astray."""
    language = Language(vocab=vocab, components=2)
    eye = torch.eye(vocab, dtype=torch.float64)
    start = torch.arange(vocab, 0, -1, dtype=torch.float64)
    language.weight = torch.tensor([0.6, 0.4], dtype=torch.float64)
    language.start = (start / start.sum()).expand(2, -1)
    language.step = torch.stack(
        [(1 - 2 * slip) * eye.roll(way, 1) + slip * eye + slip / vocab for way in (1, -1)]
    )
    return language


def shared(t: float, delta: float) -> Tensor:
    """Return P(masked_t, masked_s) of a token under one u, (2, 2): Eq. 13 twice."""
    s = t - delta
    # u <= alpha_t: both see it; alpha_t < u <= alpha_s: the teacher does.
    return torch.tensor([[1 - t, 0.0], [t - s, s]], dtype=torch.float64)


def independent(t: float, delta: float) -> Tensor:
    """Return the same where z_s has masks of its own: coupling `independent`."""
    masked = torch.tensor([t, t - delta], dtype=torch.float64)
    of_t, of_s = torch.stack([1 - masked, masked], -1)
    return of_t[:, None] * of_s


class Tiny:
    """Every sequence and every state of `counting` at one length.

    x (X, length) sequences and p (X,) their law; z (S, length) states, `vocab` where
    masked; masked (S, length); mass (S,), the chance of a state's visible tokens;
    truth (S, length, vocab), the exact denoiser: one-hot at visible tokens; patterns
    (2^length, length) of masks, and keys (S,), which of them each state has.
    """

    def __init__(self, length: int = 5, language: Language | None = None):
        self.length, self.language = length, language or counting()
        v = self.vocab = self.language.vocab
        self.x = torch.tensor(list(itertools.product(range(v), repeat=length)))
        self.z = torch.tensor(list(itertools.product(range(v + 1), repeat=length)))
        self.p = self.language.log_prob(self.x).exp()
        self.masked = self.z == v
        self.count = self.masked.sum(-1)
        seen = (self.z[:, None] == v) | (self.z[:, None] == self.x)  # (S, X, length)
        self.fits = seen.all(-1)
        self.mass = self.fits.double() @ self.p
        self.truth = self.language.posterior(self.z).exp()
        self.patterns = torch.tensor(list(itertools.product((False, True), repeat=length)))
        self.keys = self.masked.long() @ 2 ** torch.arange(length - 1, -1, -1)

    def index(self, z: Tensor) -> Tensor:
        """Map states (..., length) -> their rows (...)."""
        return z @ (self.vocab + 1) ** torch.arange(self.length - 1, -1, -1)

    # Views ------------------------------------------------------------------------

    def at(self, t: float) -> Tensor:
        """Return the law of z_t, (S,): Eq. 5 for each token, x0 from the language."""
        hidden = t**self.count * (1 - t) ** (self.length - self.count)
        return hidden * self.mass

    @cached_property
    def visited(self) -> Tensor:
        """Return the law of z_t for t ~ U(0, 1), (S,)."""
        nodes, weights = quadrature(0.0, 1.0, self.length)
        return sum(w * self.at(t) for t, w in zip(nodes, weights, strict=True))

    @cached_property
    def together(self) -> Tensor:
        """Return the chance of the tokens that two states show, (S, S); 0 where they differ."""
        return (self.fits * self.p) @ self.fits.double().T

    def pairs(self, law: Law, delta: float) -> Tensor:
        """Return P(masks of z_t, masks of z_s) for t ~ U(delta, 1] and s = t - delta.

        (2^length, 2^length), by `patterns`; law: that of one token's pair.
        """
        bits, out = self.patterns.long(), 0.0
        for t, weight in zip(*quadrature(delta, 1.0, 2 * self.length), strict=True):
            out = out + weight * law(float(t), delta)[bits[:, None], bits].prod(-1)
        return out

    @lru_cache(maxsize=12)  # noqa: B019
    def views(self, delta: float, law: Law = shared) -> Tensor:
        """Return P(z_s | z_t), (S, S): what the teacher sees; 0 for a z_t that never occurs."""
        both = self.together * self.pairs(law, delta)[self.keys][:, self.keys]
        return both / both.sum(-1, keepdim=True).clamp(min=1e-300)

    # Tables -----------------------------------------------------------------------

    def tempered(self, table: Tensor, tau: float) -> Tensor:
        """Return p^(1/tau), normalised: (S, length, vocab); one-hot rows stay."""
        return (table.log() / tau).softmax(-1)

    def mean(self, values: Tensor) -> float:
        """Return the mean of (S, length) over masked tokens of z_t, whose law is `visited`."""
        weight = self.visited[:, None] * self.masked
        return float(torch.where(self.masked, weight * values, 0.0).sum() / weight.sum())

    def entropy(self, table: Tensor) -> float:
        """Return the mean entropy of the table's predictions, in nats a masked token."""
        return self.mean(torch.special.entr(table).sum(-1))

    def divergence(self, one: Tensor, other: Tensor) -> float:
        """Return the mean KL(one || other) of predictions, in nats a masked token."""
        apart = torch.xlogy(one, one) - torch.xlogy(one, other)
        return self.mean(torch.where(one > 0, apart, 0.0).sum(-1))

    # The N-step sampler -----------------------------------------------------------

    def drawn(self, table: Tensor, steps: int) -> Tensor:
        """Return the law of the N-step sampler's samples, (X,): equal steps and iid u.

        Tokens that open together are drawn independently.
        """
        opens = torch.tensor(list(itertools.product(range(steps), repeat=self.length)))
        out = torch.ones(len(opens), len(self.x), dtype=torch.float64)
        place = (self.vocab + 1) ** torch.arange(self.length - 1, -1, -1)
        for i in range(self.length):
            before = (opens < opens[:, i, None]).long()
            state = before * place @ self.x.T + ((1 - before) @ place)[:, None] * self.vocab
            out *= table[state, i, self.x[:, i]]
        return out.mean(0)

    # Laws of sequences ------------------------------------------------------------

    def missing(self, law: Tensor) -> float:
        """Return KL(language || law) in nats a token."""
        apart = torch.xlogy(self.p, self.p) - torch.xlogy(self.p, law)
        return float(apart.sum() / self.length)

    def perplexity(self, law: Tensor) -> float:
        """Of samples from `law` under the language itself: exact generative PPL."""
        return float((-(law * self.p.log()).sum() / self.length).exp())

    def nats(self, law: Tensor) -> float:
        """Return entropy of whole sequences in nats a token."""
        return float(torch.special.entr(law).sum() / self.length)


@lru_cache(maxsize=4)
def world(length: int = 5) -> Tiny:
    return Tiny(length)


def quadrature(low: float, high: float, degree: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre for the mean over [low, high], exact to 2 degree + 1."""
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights)
    return low + (high - low) * (nodes + 1) / 2, weights / 2
