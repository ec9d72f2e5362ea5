"""The coupled pair (z_t, z_s): Eq. 13 and the sampling half of Algorithm 1.

One scalar u per token locks the token's whole trajectory (Theorem 3.3): it is masked at time t iff
u > alpha_t, where alpha_t, the paper's gamma_t, is the chance that a token is still visible. Two
times that share u are two views of one trajectory, and the earlier shows a superset of the later.

The paper draws each u independently. Only the marginal of each u enters the masking
probability, so the joint law of a sequence's u is free; `laws.draw_u` makes it an argument.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import require, require_one_of
from .laws import GOLDEN as GOLDEN
from .laws import U_LAWS as U_LAWS
from .laws import draw_u as draw_u
from .laws import rank

Alpha = Callable[[Tensor], Tensor]
"""A signal schedule: t in [0, 1] -> alpha_t in [0, 1], decreasing in t."""


class CoupledPair(NamedTuple):
    """Two views of one batch of sequences; each (batch, length).

    `masked_s` implies `masked_t` when both views share u and s <= t.
    """

    z_t: Tensor
    z_s: Tensor
    masked_t: Tensor
    masked_s: Tensor


def counter_generator(*counters: int | str) -> torch.Generator:
    """Return a CPU generator whose stream is a pure function of its counters.

    So a resumed run draws what the interrupted one would have drawn. Counters are hashed, and
    near ones give unrelated streams.
    """
    digest = hashlib.blake2b(repr(counters).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


# Times ----------------------------------------------------------------------------


def sample_times(
    n: int, delta: float, *, generator: torch.Generator | None = None, antithetic: bool = True
) -> tuple[Tensor, Tensor]:
    """Sample Algorithm 1's t ~ U(delta, 1] and s = t - delta >= 0; each (n,) float64.

    antithetic: one t in each of n equal parts of (delta, 1], as the hosts do for their own loss;
        it lowers the variance and keeps each t's marginal.

    Raises ConfigError unless 0 < delta < 1.
    """
    wanted = "between 0 and 1 in every round: choose algo.delta0 and algo.rounds so"
    require(0 < delta < 1, "delta", delta, wanted)
    # From (0, 1], hence t in (delta, 1] and s in (0, 1 - delta].
    s = (1.0 - delta) * _spread(n, generator, antithetic)
    return s + delta, s


def _spread(n: int, generator: torch.Generator | None, antithetic: bool) -> Tensor:
    """U(0, 1], (n,) float64; one in each of n equal parts, in a random order, if antithetic.

    In their order a micro-batch or a process would have its own range of times, and an epoch's
    last step, which may have fewer rows, those near 1 alone.
    """
    unit = torch.rand(n, generator=generator, dtype=torch.float64)  # in [0, 1)
    if antithetic:
        unit = (unit + torch.randperm(n, generator=generator)) / n
    return 1.0 - unit


def sample_nested_times(
    n: int, *, generator: torch.Generator | None = None, antithetic: bool = True
) -> tuple[Tensor, Tensor]:
    """Sample t ~ U(0, 1] and, given t, s ~ U(0, t]; each (n,) float64.

    The pair of subset consistency, which has no gap delta.
    """
    t = _spread(n, generator, antithetic)
    return t, t * _spread(n, generator, antithetic=False)


# Eq. 13 and the pair --------------------------------------------------------------


def mask(x0: Tensor, u: Tensor, alpha_t: Tensor, mask_index: int) -> Tensor:
    """Mask by Eq. 13, MASK(x0, u, gamma_t): `mask_index` where u > alpha_t, else x0.

    x0: (batch, length) ids; u: (batch, length); alpha_t broadcasts to both, as (batch, 1) does.
    """
    return torch.where(u > alpha_t, mask_index, x0)


def couple(
    x0: Tensor, u: Tensor, t: Tensor, s: Tensor, alpha: Alpha, mask_index: int
) -> CoupledPair:
    """Return Algorithm 1's coupled trajectory pair (z_t, z_s) at times s <= t.

    x0, u: (batch, length); t, s: (batch,); alpha: any signal schedule.
    """
    return _views(x0, mask_index, *(u > alpha(time).to(u.device)[:, None] for time in (t, s)))


def _views(x0: Tensor, mask_index: int, masked_t: Tensor, masked_s: Tensor) -> CoupledPair:
    z_t, z_s = (torch.where(m, mask_index, x0) for m in (masked_t, masked_s))
    return CoupledPair(z_t, z_s, masked_t, masked_s)


def couple_counts(
    x0: Tensor, u: Tensor, valid: Tensor, share_t: Tensor, share_s: Tensor, mask_index: int
) -> CoupledPair:
    """Return a nested pair with exact counts: floor(share * n) of a row's n tokens are masked.

    Those of the largest u: Eq. 13 with a threshold between two of the row's own u in the place of
    alpha_t. x0, u, valid: (batch, length), n counts the tokens that are valid and have u > 0;
    the others stay visible. share_t >= share_s: (batch,), in [0, 1].
    """
    free = (valid > 0) & (u > 0)
    place = rank(torch.where(free, -u, 1.0))
    n = free.sum(-1)
    counts = ((share.to(u.device) * n).floor() for share in (share_t, share_s))
    return _views(x0, mask_index, *(place < count[:, None] for count in counts))


COUPLINGS = ("shared", "independent", "none")


def couple_as(
    coupling: str,
    x0: Tensor,
    u: Tensor,
    u_other: Tensor | None,
    t: Tensor,
    s: Tensor,
    alpha: Alpha,
    mask_index: int,
) -> CoupledPair:
    """Return the pair under the paper's coupling or one of its ablations.

    `shared`: both views from u, as in `couple` (the paper).
    `independent`: z_s from a second draw `u_other`: a token may be masked for the teacher alone.
    `none`: z_s = z_t, so that only the teacher's temperature teaches (a control).

    Raises ConfigError for an unknown coupling.
    """
    check_coupling(coupling)
    pair = couple(x0, u, t, t if coupling == "none" else s, alpha, mask_index)
    if coupling != "independent":
        return pair
    assert u_other is not None
    other = couple(x0, u_other, s, s, alpha, mask_index)
    return pair._replace(z_s=other.z_s, masked_s=other.masked_s)


def check_coupling(coupling: str) -> None:
    """Raise ConfigError for an unknown coupling."""
    require_one_of(COUPLINGS, "algo.coupling", coupling)
