"""Joint laws of u: how the opening times of one sequence's tokens depend on one another.

Only the marginal of each u, uniform on [0, 1], enters Eq. 13, so a denoiser under SUBS is
right under every law here and needs no retraining. The law decides which tokens are masked, or
open, together: the sampler multiplies their marginals, and its error is their mutual
information. Laws that keep near tokens apart err less where dependence falls with distance;
`expected_information` says by how much, and where a law fails: at the lags it brings together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import require, require_one_of

GOLDEN = (math.sqrt(5) - 1) / 2

_Generator = torch.Generator | None

# Laws of u ------------------------------------------------------------------------

U_LAWS = ("iid", "lattice", "halton", "dilated")


def draw_u(
    batch: int,
    length: int,
    law: str = "iid",
    *,
    step: float | None = None,
    stratified: bool = False,
    free: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    prefix: str = "algo.",
) -> Tensor:
    """Draw trajectory noise u: (batch, length) in dtype on the CPU, each u ~ U[0, 1].

    law: how the u of one sequence depend on one another; sequences are independent.
        `iid`: they do not (the paper).
        `lattice`: u_i = frac(u_0 + i * step), with a random shift u_0 and a random reflection
        per sequence, so that tokens with near u, which open together, lie far apart. `step`
        defaults to the golden ratio's fraction; 1/N gives a comb that moves on to the
        neighbours at each of N steps. It fails for dependence at the lags it brings together:
        multiples of N for 1/N (rows of a table N tokens wide), 8, 13, 21, ... for the golden
        step.
        `halton`: van der Corput's order; `step` is its base, by default 2. It brings together
        multiples of the largest power of the base in length / share.
        `dilated`: the order of DUS, gaps that shrink by the factor `step`, by default 2. It
        fails late: its last round is half of the tokens or more, every second one.
        Both orders begin at a random place of the sequence, which makes each u uniform.
    stratified: each of N equal steps opens its exact share of a sequence's tokens (length / N,
        rounded up or down), under marginals that stay uniform: for `iid` a random order, for
        `lattice` its order. Orders always are.
    free: (batch, length) bool on the CPU; the others are given, a context: their u is 0, so
        they are never masked. A sequence's law is that of its free tokens alone, counted
        without the given ones between them.
    generator: a CPU generator; draws are then reproducible on every device.
    prefix: of the config keys in messages.

    Raises ConfigError for an unknown law, or a step that the law cannot take.
    """
    own = _checked_step(law, step, prefix)

    def draw(batch: int, length: int) -> Tensor:
        if law == "lattice":
            return _lattice(batch, length, own, stratified, generator).to(dtype)
        if law == "halton":
            keys = _shifted(halton_order(length, own), batch, generator)
        elif law == "dilated":
            level = _shifted(dilated_levels(length, own), batch, generator)
            # A round that one step does not open whole is split at random.
            keys = level + torch.rand(batch, length, generator=generator, dtype=torch.float64)
        else:
            keys = torch.rand(batch, length, generator=generator, dtype=dtype)
            if not stratified:
                return keys
        return _cells(keys, generator).to(dtype)

    if free is None or free.all():
        return draw(batch, length)
    if law == "iid" and not stratified:  # no token's u depends on another's
        return draw(batch, length).masked_fill(~free, 0.0)
    u = torch.zeros(batch, length, dtype=dtype)
    for row, places in zip(u, free, strict=True):
        if count := int(places.sum()):
            row[places] = draw(1, count)[0]
    return u


def _checked_step(law: str, step: Any, prefix: str) -> Any:
    """Return the step, by default the law's own. Raises ConfigError."""
    require_one_of(U_LAWS, f"{prefix}u_law", law)
    if step is None:
        return {"iid": None, "lattice": GOLDEN}.get(law, 2)
    number = not isinstance(step, str) and math.isfinite(step)
    fine, wanted = number and step == int(step) >= 2, "a base, a whole number of 2 or more"
    if law == "lattice":
        wanted = "a number like 1/8 and no whole one, by which all tokens have one u"
        fine = number and step % 1
    elif law == "iid":
        fine, wanted = False, "null"
    require(fine, f"{prefix}u_step", step, f"{wanted}, with {prefix}u_law={law}")
    return step if law == "lattice" else int(step)


def _lattice(
    batch: int, length: int, step: float, stratified: bool, generator: _Generator
) -> Tensor:
    shift, coin = torch.rand(2, batch, 1, generator=generator, dtype=torch.float64)
    point = torch.arange(length, dtype=torch.float64) * (step % 1.0)
    if stratified:
        # Rounded, so that 1/49 has its ties; those open from left to right, and an
        # interval cuts a comb between tokens that are far apart.
        grid = 2.0**40
        point = rank((torch.frac(point) * grid).round()[None] % grid) / length
    u = torch.frac(shift + point)
    # Reflection keeps the marginal and makes both directions equally likely.
    # float32 may round up to 1.0, which is still within the closed interval.
    return torch.where(coin < 0.5, u, 1 - u)


def halton_order(length: int, base: int = 2) -> Tensor:
    """Rank positions in van der Corput's order: (length,) int64.

    The digits of the position, mirrored: the first n to open are spread evenly for every n. In
    one dimension Halton's sequence is van der Corput's (MaskGIT's scheduler of arXiv 2503.17076
    takes bases 2 and 3 for the two axes of an image).
    """
    position, mirrored, unit = torch.arange(length), torch.zeros(length).double(), 1.0
    while unit > 1 / length:
        unit /= base
        mirrored += unit * (position % base)
        position = position // base
    return rank(mirrored)


def dilated_levels(length: int, base: int = 2) -> Tensor:
    """Number the rounds in which dilated unmasking opens each position: (length,) int64.

    Round t opens what is still masked at multiples of floor(length / base^t) (DUS, arXiv
    2506.19037, with the whole sequence as its block); gaps shrink to 1.
    """
    level = torch.full((length,), -1)
    position, gap, t = torch.arange(length), length, 0
    while gap > 1:
        t += 1
        gap = max(1, int(length // base**t))
        level[(level < 0) & (position % gap == 0)] = t - 1
    return level.clamp(min=0)


def rank(keys: Tensor) -> Tensor:
    """Return the rank of each key in its row, the least first; ties go by position."""
    return keys.sort(dim=-1, stable=True).indices.argsort(dim=-1)


def _cells(keys: Tensor, generator: _Generator) -> Tensor:
    """Draw one u in each of `length` equal cells: cell `rank` plus one offset per sequence.

    keys: (batch, length), whose ranks are the cells. Any interval of width w then contains
    floor(w * length) or ceil(w * length) of a sequence's u, and u is uniform where the rank is.
    """
    offset = torch.rand(len(keys), 1, generator=generator, dtype=torch.float64)
    return (rank(keys) + offset) / keys.shape[1]


def _shifted(order: Tensor, batch: int, generator: _Generator) -> Tensor:
    """`order` (length,) begun at a random place in each sequence: (batch, length)."""
    length = len(order)
    shift = torch.randint(length, (batch, 1), generator=generator)
    return order[(torch.arange(length) + shift) % length]


# Shares of the steps --------------------------------------------------------------


def levels(schedule: str | Sequence[float], steps: int) -> list[float]:
    """Return the share of tokens open after 0, 1, ..., `steps` steps: from 0 to 1.

    schedule: `uniform`; `cosine`, MaskGIT's 1 - cos(pi n / 2N), few tokens first; or
    the tokens each step opens, as one number a step (any scale), which may be 0 but for the
    first and the last: ReMDM's loop rests at a level.

    Raises ConfigError for steps below 1, an unknown schedule or the wrong count of shares.
    """
    require(steps >= 1, "steps", steps, "at least 1")
    if schedule == "uniform":
        return [n / steps for n in range(steps)] + [1.0]
    if schedule == "cosine":
        return [1 - math.cos(math.pi / 2 * n / steps) for n in range(steps)] + [1.0]
    wanted = f"uniform, cosine, or {steps} shares, none negative, the first and last above 0"
    require(not isinstance(schedule, str), "schedule", schedule, wanted)
    shares = [float(share) for share in schedule]
    fine = len(shares) == steps and all(0 <= s < math.inf for s in shares)
    require(fine and shares[0] and shares[-1], "schedule", list(schedule), wanted)
    opened = torch.tensor([0.0, *shares], dtype=torch.float64).cumsum(0)
    return [*(opened[:-1] / opened[-1]).tolist(), 1.0]


# A step fitted to a corpus --------------------------------------------------------


def mutual_information(
    tokens: Tensor,
    max_lag: int | None = None,
    *,
    kept: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the mutual information of tokens 1, ..., max_lag apart: (max_lag,) nats.

    tokens: (rows, length) ids; pairs lie within rows. The plug-in estimate, less that of
    shuffled pairs, which is all bias (what remains errs to the low side), and never below 0.
    Tokens beyond the `kept` most frequent count as one, which can only lose information and
    keeps the bias small. max_lag: by default length - 1, at most 128. Ten seconds of one core
    for 128 lags of a million tokens.

    Raises ConfigError for rows too short.
    """
    tokens = tokens.cpu()
    rows, length = tokens.shape
    max_lag = min(length - 1, 128) if max_lag is None else max_lag
    require(0 < max_lag < length, "max_lag", max_lag, f"at least 1, and below the rows' {length}")
    # Renamed by frequency: 0 is the most frequent, `kept` all the rest.
    _, ids, counts = tokens.unique(return_inverse=True, return_counts=True)
    ids = rank(-counts).clamp(max=kept)[ids]
    kinds = int(ids.max()) + 1

    def entropy(x: Tensor) -> Tensor:
        n = x.bincount().double()
        return torch.special.entr(n / n.sum()).sum()

    def plug_in(a: Tensor, b: Tensor) -> Tensor:
        return entropy(a) + entropy(b) - entropy(a * kinds + b)

    information = []
    for lag in range(1, max_lag + 1):
        a, b = ids[:, :-lag].flatten(), ids[:, lag:].flatten()
        shuffled = b[torch.randperm(len(b), generator=generator)]
        information.append(plug_in(a, b) - plug_in(a, shuffled))
    return torch.stack(information).clamp(min=0.0)


def together(step: float, lags: Tensor, shares: Tensor) -> Tensor:
    """Return P(two tokens `lags` apart open in one step) under a lattice, shaped like lags.

    shares: (steps,) of the tokens each step opens. Two points of the circle at distance d lie
    in one arc of width w, whose place is uniform, with probability max(0, w - d) +
    max(0, w - (1 - d)).
    """
    d = lags.double() * step % 1
    d = torch.minimum(d, 1 - d)[..., None]
    both = (shares - d).clamp(min=0) + (shares - (1 - d)).clamp(min=0)
    return both.sum(-1)


def expected_information(
    step: float | None, information: Tensor, length: int, shares: Tensor
) -> float:
    """Sum the mutual information of pairs that open together: expected nats a token.

    step: a lattice's; None: iid. information: (max_lag,) as of `mutual_information`.
    shares: (steps,) of the tokens each step opens, summing to 1.
    """
    lags = torch.arange(1, min(len(information), length - 1) + 1)
    if step is None:
        chance = (shares**2).sum().expand(len(lags))
    else:
        chance = together(step, lags, shares)
    pairs = (length - lags).double()
    return float((pairs * information[: len(lags)] * chance).sum() / length)


def fit_step(
    information: Tensor,
    length: int,
    steps: int | Sequence[int],
    *,
    schedule: str | Sequence[float] = "uniform",
    grid: int = 1024,
) -> float:
    """Fit the step of a lattice, so that tokens which open together share little information.

    information: (max_lag,) nats, by `mutual_information` from a corpus; no model is evaluated.
    Minimises `expected_information`, averaged over `steps` where there are several, among 1/N,
    the golden step and `grid` steps of (0, 1/2]. A heuristic: it ignores pairs beyond max_lag,
    triples, and what is open already.

    Raises ConfigError for steps out of range, or an unknown schedule.
    """
    counts = [steps] if isinstance(steps, int) else list(steps)
    # In this order, since of equals the first is taken.
    candidates = [1 / n for n in sorted(counts, reverse=True) if n > 1] + [GOLDEN]
    candidates += [(k + 1) / (2 * grid) for k in range(grid)]
    shares = [torch.tensor(levels(schedule, n)).double().diff() for n in counts]

    def cost(step: float) -> float:
        each = [expected_information(step, information, length, s) for s in shares]
        return sum(each) / len(each)

    costs = torch.tensor([cost(step) for step in candidates], dtype=torch.float64)
    near = costs <= costs.min() * (1 + 1e-9) + 1e-12
    return candidates[int(near.nonzero()[0])]
