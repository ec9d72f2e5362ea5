"""A language so small that it is enumerated: sequences, states, views, sampler laws.

The language is `bench.language.Language` with its two chains written by hand: a sequence counts
up or counts down (modulo vocab), which is hidden, and slips now and then. A denoiser is a table of
probabilities, one row for each state and position, so a student has no error but its loss's.
Time is log-linear, alpha_t = 1 - t. All float64.
"""

from __future__ import annotations

import itertools
from functools import cached_property, lru_cache

import numpy as np
import torch
from bench.language import Language
from torch import Tensor

VOCAB, SLIP = 3, 0.1


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


class Tiny:
    """Every sequence and every state of `counting` at one length.

    x (X, length) sequences and p (X,) their law; z (S, length) states, `vocab` where
    masked; masked (S, length); mass (S,), the chance of a state's visible tokens;
    truth (S, length, vocab), the exact denoiser: one-hot at visible tokens.
    """

    def __init__(self, length: int = 5, language: Language | None = None):
        self.length, self.language = length, language or counting()
        v = self.vocab = self.language.vocab
        self.x = torch.tensor(list(itertools.product(range(v), repeat=length)))
        self.z = torch.tensor(list(itertools.product(range(v + 1), repeat=length)))
        self.p = self.language.log_prob(self.x).exp()
        self.masked = self.z == v
        self.count = self.masked.sum(-1)
        self.fits = self.finer(self.z, self.x)
        self.mass = self.fits.double() @ self.p
        self.truth = self.language.posterior(self.z).exp()

    def index(self, z: Tensor) -> Tensor:
        """Map states (..., length) -> their rows (...)."""
        return z @ (self.vocab + 1) ** torch.arange(self.length - 1, -1, -1)

    def finer(self, a: Tensor, b: Tensor) -> Tensor:
        """Return (A, B) bool: b shows all that a shows, alike."""
        shown = torch.ones(len(a), len(b), dtype=torch.bool)
        for i in range(self.length):  # by position, for the memory
            here = a[:, i, None]
            shown &= (here == self.vocab) | (here == b[None, :, i])
        return shown

    @cached_property
    def refines(self) -> Tensor:
        """Return (S, S) bool: the second state shows all that the first does."""
        return self.finer(self.z, self.z)

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

    def opened(self, delta: float) -> Tensor:
        """Return c (length + 1, length + 1): chance that z_s shows k given tokens more.

        c[m, k], for a z_t of m masks, of t ~ U(delta, 1] and s = t - delta given z_t:
        the mean of rho^k (1 - rho)^(m - k), rho = delta / t.
        """
        n = self.length
        nodes, weights = (q[:, None, None] for q in quadrature(delta, 1.0, n + 1))
        m = torch.arange(n + 1)[:, None].double()
        k = torch.arange(n + 1).double()
        seen = weights * nodes**m * (1 - nodes) ** (n - m)
        rho = delta / nodes
        c = (seen * rho**k * (1 - rho) ** (m - k).clamp(min=0)).sum(0)
        return torch.where(k <= m, c / seen.sum(0), 0.0)

    @lru_cache(maxsize=12)  # noqa: B019
    def views(self, delta: float) -> Tensor:
        """Return P(z_s | z_t) under one shared u, (S, S): what the teacher sees."""
        return torch.where(self.refines, self.chance(delta) * self.mass / self.mass[:, None], 0.0)

    def chance(self, delta: float) -> Tensor:
        """Return P(the tokens that z_s shows beyond z_t are those | z_t), (S, S)."""
        more = self.count[:, None] - self.count
        return self.opened(delta)[self.count[:, None], more.clamp(min=0)]

    @lru_cache(maxsize=4)  # noqa: B019
    def views_apart(self, delta: float) -> Tensor:
        """Return P(z_s | z_t) where z_s has masks of its own: coupling `independent`."""
        nodes, weights = quadrature(delta, 1.0, 2 * self.length)
        given = self.fits * self.p / self.mass[:, None]  # P(x0 | z_t)
        out, total = 0.0, 0.0
        for t, w in zip(nodes, weights, strict=True):
            s = t - delta
            hidden = s**self.count * (1 - s) ** (self.length - self.count)
            seen = w * t**self.count * (1 - t) ** (self.length - self.count)
            kernel = given @ (self.fits.T * hidden)
            out, total = out + seen[:, None] * kernel, total + seen
        return out / total[:, None]

    # Tables -----------------------------------------------------------------------

    def tempered(self, table: Tensor, tau: float) -> Tensor:
        """Return p^(1/tau), normalised: (S, length, vocab); one-hot rows stay."""
        return (table.log() / tau).softmax(-1)

    def mean(self, values: Tensor) -> float:
        """Return the mean of (S, length) over masked tokens of z_t, t ~ U(0, 1)."""
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

    @cached_property
    def orders(self) -> Tensor:
        """Return every order of opening with its ties, (O, length) int64 from 0 on."""
        n = self.length
        ranks = torch.tensor(list(itertools.product(range(n), repeat=n)))
        return dense(ranks).unique(dim=0)

    def by_order(self, table: Tensor) -> Tensor:
        """Return P(x | order), (O, X): tokens that open together are drawn independently."""
        out = torch.ones(len(self.orders), len(self.x), dtype=torch.float64)
        place = (self.vocab + 1) ** torch.arange(self.length - 1, -1, -1)
        for i in range(self.length):
            before = self.orders < self.orders[:, i, None]  # (O, length)
            shown = before.long() * place @ self.x.T  # (O, X)
            state = shown + ((~before).long() * place).sum(-1)[:, None] * self.vocab
            out *= table[state, i, self.x[:, i]]
        return out

    def order_law(self, steps: Tensor, weight: Tensor) -> Tensor:
        """Map opening steps (W, length), weight (W,) -> the law of `orders`, (O,)."""
        keys = {tuple(o): i for i, o in enumerate(self.orders.tolist())}
        rows = torch.tensor([keys[tuple(o)] for o in dense(steps).tolist()])
        law = torch.zeros(len(self.orders), dtype=torch.float64)
        return law.index_add_(0, rows, weight)

    @lru_cache(maxsize=16)  # noqa: B019, worlds stay
    def iid(self, steps: int) -> Tensor:
        """Return the law of `orders` for `steps` equal steps and iid u (the paper's)."""
        each = torch.tensor(list(itertools.product(range(steps), repeat=self.length)))
        weight = torch.full((len(each),), 1 / len(each), dtype=torch.float64)
        return self.order_law(each, weight)

    def drawn(self, table: Tensor, steps: int) -> Tensor:
        """Return the law of the N-step sampler's samples, (X,)."""
        return self.iid(steps) @ self.by_order(table)

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


def dense(ranks: Tensor) -> Tensor:
    """Renumber ranks (W, length) as 0, 1, ... without gaps, ties kept."""
    below = ranks[:, None, :] < ranks[:, :, None]  # (W, i, j): j before i
    first = ranks[:, :, None] == ranks[:, None, :]
    leads = ~torch.tril(first, -1).any(-1)  # first of its rank
    return (below & leads[:, None, :]).sum(-1)


def quadrature(low: float, high: float, degree: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre for the mean over [low, high], exact to 2 degree + 1."""
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights)
    return low + (high - low) * (nodes + 1) / 2, weights / 2
