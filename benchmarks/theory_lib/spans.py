"""What does a u that is shared by neighbours do, with its marginals kept?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mdlm_mcd import coupling

from . import optimum
from .pages import Table
from .tiny import Tiny, world

Parts = Iterable[tuple[float, list[int], list[bool]]]
"""A joint law of u as a mixture: weight, the group of each token, which are mirrored.

Tokens of a group share one uniform v: u_i = v, or 1 - v where mirrored.
"""


def iid(length: int) -> Parts:
    yield 1.0, list(range(length)), [False] * length


def blocks(size: int, mirror: bool = False) -> Callable[[int], Parts]:
    """Tie blocks of `size` neighbours to one u; the first begins anywhere.

    mirror: every second token of a block has 1 - u, so neighbours are kept apart.
    """

    def parts(length: int) -> Parts:
        for start in range(size):
            at = [i + start for i in range(length)]
            odd = [mirror and i % size % 2 == 1 for i in at]
            yield 1 / size, [i // size for i in at], odd

    return parts


def spans(stay: float) -> Callable[[int], Parts]:
    """Repeat the left neighbour's u with chance `stay`: geometric spans."""

    def parts(length: int) -> Parts:
        for tied in itertools.product((False, True), repeat=length - 1):
            weight = 1.0
            for same in tied:
                weight *= stay if same else 1 - stay
            groups = [0, *itertools.accumulate(not same for same in tied)]
            yield weight, groups, [False] * length

    return parts


LAWS: dict[str, Callable[[int], Parts]] = {
    "iid (the paper)": iid,
    "spans of mean length 2": spans(0.5),
    "blocks of 2": blocks(2),
    "blocks of 5": blocks(5),
    "mirrored pairs": blocks(2, mirror=True),
}


def cells(parts: Parts, cuts: list[float]) -> tuple[Tensor, Tensor]:
    """Return u (W, length) and weights: a point in each cell between cuts of each v.

    Whatever compares u with `cuts` alone has the law's exact probabilities.
    """
    edges = sorted({0.0, 1.0, *cuts, *(1 - c for c in cuts)})
    pairs = [(a, b) for a, b in itertools.pairwise(edges) if b - a > 1e-12]
    middle = torch.tensor([(a + b) / 2 for a, b in pairs], dtype=torch.float64)
    width = torch.tensor([b - a for a, b in pairs], dtype=torch.float64)
    points, weights = [], []
    for weight, group, mirror in parts:
        names = sorted(set(group))
        place = torch.tensor([names.index(g) for g in group])
        chosen = torch.cartesian_prod(*[torch.arange(len(pairs))] * len(names))
        chosen = chosen.view(-1, len(names))
        u = middle[chosen][:, place]
        points.append(torch.where(torch.tensor(mirror), 1 - u, u))
        weights.append(weight * width[chosen].prod(-1))
    return torch.cat(points), torch.cat(weights)


def pattern_law(parts: Parts, length: int, t: float, s: float) -> Tensor:
    """Return P(masks of z_t, masks of z_s) by `couple`, as `Tiny.pairs` orders them."""
    u, weight = cells(parts, [1 - t, 1 - s])
    x0 = torch.zeros(len(u), length, dtype=torch.long)
    times = (torch.full((len(u),), value, dtype=torch.float64) for value in (t, s))
    pair = coupling.couple(x0, u, *times, lambda t: 1 - t, 1)
    key = torch.cat([pair.masked_t, pair.masked_s], -1).long()
    key = key @ 2 ** torch.arange(2 * length - 1, -1, -1)
    law = torch.zeros(4**length, dtype=torch.float64).index_add_(0, key, weight)
    return law.view(2**length, 2**length)


def sampler(w: Tiny, parts: Parts, steps: int) -> Tensor:
    """Return the law of the exact denoiser's samples: step n opens u in [n/N, (n+1)/N)."""
    u, weight = cells(parts, [n / steps for n in range(1, steps)])
    return w.sampled(w.truth, (u * steps).floor().long(), weight)


def lattice(w: Tiny, steps: int) -> Tensor:
    """Return the same under `laws`' lattice of step 1/N: u_i = frac(u_0 + i/N), or 1 - u_i."""
    forward = (torch.arange(steps)[:, None] + torch.arange(w.length)) % steps
    both = torch.cat([forward, steps - 1 - forward])
    return w.sampled(w.truth, both, torch.full((len(both),), 0.5 / steps, dtype=torch.float64))


TIMES = [(2 * k + 1) / 16 for k in range(8)]


def training(w: Tiny, parts: Parts, delta: float) -> tuple:
    """Return what a student sees and learns under a law of u, its times averaged.

    Masked share, share of mask patterns that occur, KL of the best kl_fwd student from the
    exact denoiser, entropy of a masked token, and what the teacher's view adds to it.
    """
    times = [delta + (1 - delta) * middle for middle in TIMES]
    pairs = sum(pattern_law(parts, w.length, t, t - delta) for t in times) / len(times)
    of_t, views = pairs.sum(-1), w.conditional(pairs)
    law = of_t[w.keys] * w.mass  # of z_t
    best = optimum.kl_fwd(optimum.given(w, w.truth, 1.0, views))
    # a = 0: all that is masked opens at once, and cross-entropy alone teaches.
    best = torch.where(best.isfinite(), best, w.truth)
    entropy, both = torch.special.entr(w.truth).sum(-1), w.masked.double()
    before, after = (views @ both) * entropy, views @ (both * entropy)
    return (
        float(of_t @ w.patterns.double().mean(-1)),
        float((of_t > 0).double().mean()),
        w.divergence(w.truth, best, law),
        w.entropy(w.truth, law),
        w.mean(before - after, law) / w.mean(views @ both, law),
    )


def exact() -> list[Table]:
    w = world(5)
    rows = [(name, *training(w, list(law(5)), 1 / 8)) for name, law in LAWS.items()]
    learned = Table(
        "Training under each law of u, delta = 1/8, tau = 1, exactly over u (eight "
        "times t); nats are a masked token's",
        " | masked | mask patterns that occur | KL of the best student | entropy given z_t | "
        "less given z_s, masked for both",
        rows,
    )
    drawn = [
        (name, *(w.missing(sampler(w, list(law(5)), n)) for n in (2, 3, 4)))
        for name, law in LAWS.items()
    ]
    drawn.append(("lattice, 1/N (laws.draw_u)", *(w.missing(lattice(w, n)) for n in (2, 3, 4))))
    samples = Table(
        "The N-step sampler under each law, exact denoiser: KL from the language, nats a token",
        " | N = 2 | N = 3 | N = 4",
        drawn,
    )
    return [learned, samples]
