"""Predict and draw: what all samplers share, with a count of network calls."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import laws
from ..coupling import Alpha
from ..errors import ConfigError, require

log = logging.getLogger(__name__)

Denoise = Callable[..., Tensor]
"""`denoise(z, rows) -> logits`: z is (batch, length) token ids, `rows` a boolean mask
of the same shape, and the result (rows.sum(), vocab) raw logits.

With an attribute `time_conditioned = True` it takes a third argument, `alpha_t`,
(batch,) float64 on z's device: the schedule's alpha at the time at which z stands.
"""

Temperature = float | Sequence[float] | Callable[[Tensor], Tensor]
"""A number, (start, end), or a function of the fraction of tokens open, in [0, 1]."""


class Sample(NamedTuple):
    """tokens: (batch, length) ids without masks; evaluations: network calls made."""

    tokens: Tensor
    evaluations: int


def logits_at(denoise: Denoise, z: Tensor, rows: Tensor, alpha_t: float | Tensor) -> Tensor:
    """Call `denoise`, with alpha_t (a number or (batch,)) if it is time-conditioned.

    Raises ConfigError for logits of all tokens: they would be read as those of the masked ones.
    """
    if getattr(denoise, "time_conditioned", False):
        alpha_t = torch.as_tensor(alpha_t, dtype=torch.float64, device=z.device)
        logits = denoise(z, rows, alpha_t.expand(len(z)))
    else:
        logits = denoise(z, rows)
    if logits.ndim != 2:
        raise ConfigError(
            f"denoise(z, rows) returned logits of shape {tuple(logits.shape)}: those of the masked "
            "tokens alone are needed, (rows.sum(), vocab); index them by [rows]."
        )
    return logits


def levels_of(
    alpha: Alpha, steps: int, schedule: str | Sequence[float] | None = None
) -> list[float]:
    """Return the share of tokens open before and after each step: steps + 1, from 0 to 1.

    schedule: the shares of `laws.levels` in place of those that alpha gains in equal steps of time.
    """
    if schedule is not None:
        return laws.levels(schedule, steps)
    alphas = alpha(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)).tolist()
    # All is masked at the start, whatever alpha is at t = 1; the last step opens what is left.
    first = alphas[0]
    return [*((a - first) / (1.0 - first) for a in alphas[:-1]), 1.0]


def opening_steps(u: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the step at which each token opens, the first whose level exceeds u.

    levels: as `levels_of`. u's shape, int64, from 0 to steps - 1.
    """
    ends = torch.tensor(levels[1:], dtype=torch.float64, device=u.device)
    return torch.searchsorted(ends, u.double(), right=True).clamp(max=len(ends) - 1)


def alpha_at(level: float | Tensor, alpha: Alpha) -> float | Tensor:
    """Return alpha_t where the share `level` of tokens is open: none at t = 1."""
    first = float(alpha(torch.ones(1, dtype=torch.float64)))
    return first + (1 - first) * level


def probabilities(
    logits: Tensor,
    mask_index: int,
    *,
    dtype: torch.dtype,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Apply SUBS, temperature and nucleus: (rows, vocab) logits -> probabilities.

    temperature: a number, or one a row as (rows, 1). top_p: mass of the nucleus; the
    token that crosses it stays. Returns a new tensor in dtype.
    """
    # In place on one copy: at 50,258 tokens each tensor of this shape is gigabytes.
    logits = logits.to(dtype, copy=True).div_(temperature)
    logits[:, mask_index] = -math.inf  # a finite one could win at a temperature near 0
    p = logits.softmax(-1)
    return nucleus(p, top_p) if top_p < 1.0 else p


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens that holds the mass `top_p`: (..., vocab), renormalised."""
    ordered, index = p.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    p = torch.zeros_like(p).scatter(-1, index, ordered)
    return p / p.sum(-1, keepdim=True)


def categorical(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from p (..., vocab), normalised or not, by the exponential race, in p's precision.

    In float32 the race is the hosts': -log(u + 1e-10) + 1e-10 of a u of 24 bits. It
    is never below 2^-24, nor above 23.03: a token whose odds are smaller than the
    ratio cannot win, and those near it win too rarely.
    """
    if p.dtype == torch.float32:
        u = torch.rand(p.shape, generator=generator, device=p.device)
        race = 1e-10 - (u + 1e-10).log()
    else:
        race = torch.empty_like(p).exponential_(generator=generator)
    return torch.div(p.detach(), race, out=race).argmax(-1)


@functools.cache
def warn_of_float32() -> None:
    """Warn, once a process, that draws in float32 are not exact."""
    log.warning(
        "Sampling in float32, as the hosts' old figures: tokens of small probability "
        "are drawn too rarely, like at a lower temperature; compare with float32 only."
    )


def temperature_path(temperature: Temperature) -> Callable:
    """Return `temperature` as a function of the fraction of tokens open.

    Raises ConfigError unless it is positive from end to end.
    """
    if callable(temperature):
        return lambda fraction: temperature(torch.as_tensor(fraction))
    ends = torch.as_tensor(temperature, dtype=torch.float64)
    fine = ends.shape in ((), (2,)) and bool(((ends > 0) & (ends < math.inf)).all())
    require(fine, "temperature", temperature, "positive: a number, or one at either end")
    start, end = ends.expand(2).tolist()
    return lambda fraction: start + (end - start) * fraction


@dataclass
class Chain:
    """One call of `sample`: the network, how to draw from it, and its evaluations.

    alpha: the signal schedule. levels: (steps + 1,) share of tokens open before and after
    each step, 0 to 1. temperature: of the fraction of tokens open.
    """

    denoise: Denoise
    alpha: Alpha
    levels: list[float]
    mask_index: int
    temperature: Callable
    generator: torch.Generator | None = None
    dtype: torch.dtype = torch.float64
    top_p: float = 1.0
    greedy_tail: int = 0
    vocab_size: int | None = None  # of the model's logits, where it is known
    callback: Callable[[int, Tensor], None] | None = None
    evaluations: int = 0

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def fraction(self, step: int) -> float:
        """Return the share of tokens open, rescaled to 1 at the last step."""
        return self.levels[step] / self.levels[-2] if step else 0.0

    def opens(self, step: int) -> float:
        """Return (alpha_s - alpha_t) / (1 - alpha_t), the chance to open in a step."""
        before, after = self.levels[step : step + 2]
        return (after - before) / (1.0 - before)

    def greedy(self, step: int) -> bool:
        return step >= self.steps - self.greedy_tail

    def logits(self, z: Tensor, rows: Tensor, level: float | Tensor) -> Tensor:
        """Return (rows.sum(), vocab) logits at a level, by one counted evaluation."""
        self.evaluations += 1
        logits = logits_at(self.denoise, z, rows, alpha_at(level, self.alpha))
        if self.vocab_size not in (None, logits.shape[-1]):
            raise ConfigError(
                f"vocab_size={self.vocab_size} is not that of the logits, {logits.shape[-1]}: cut "
                "columns that pad the vocabulary, [..., :vocab_size], or give their number."
            )
        return logits

    def heat(self, fraction: float | Tensor, logits: Tensor) -> float | Tensor:
        """Return the temperature by which logits (rows, vocab) are divided."""
        found = self.temperature(fraction)
        per_row = isinstance(found, Tensor) and found.ndim
        return found.to(logits.device)[:, None] if per_row else found

    def law(
        self, logits: Tensor, fraction: float | Tensor, greedy: bool | Tensor = False
    ) -> Tensor:
        """Return (rows, vocab) probabilities to draw from.

        fraction: a number, or (rows,). greedy: whether all mass goes to the most likely
        token; a bool, or (rows,).
        """
        heat = self.heat(fraction, logits)
        how = dict[str, Any](dtype=self.dtype, temperature=heat, top_p=self.top_p)
        p = probabilities(logits, self.mask_index, **how)
        if p[:, 0].isnan().any():  # then the whole row is, and token 0 would be drawn
            raise ConfigError(
                "The network returned logits that are not finite: it diverged in training, or "
                "overflows in half precision; use float32 or bfloat16."
            )
        if greedy is False:
            return p
        best = torch.zeros_like(p).scatter(-1, p.argmax(-1, keepdim=True), 1.0)
        return torch.where(greedy[:, None], best, p) if isinstance(greedy, Tensor) else best

    def predict(self, z: Tensor, rows: Tensor, step: int) -> Tensor:
        """Return p(x0 | z) at rows, as drawn from in this step."""
        logits = self.logits(z, rows, self.levels[step])
        return self.law(logits, self.fraction(step), self.greedy(step))

    def draw(self, p: Tensor) -> Tensor:
        return categorical(p, self.generator)

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64, device=device)

    def report(self, step: int, z: Tensor) -> None:
        if self.callback is not None:
            self.callback(step, z)
