"""Estimate intervals over samples: the bootstrap and the jackknife.

Statistics of means and ratios of sums are resampled. Those of pooled counts (an entropy,
a distance of laws, distinct-n) get a jackknife, since a resample repeats samples and so
looks less diverse than any fresh draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..coupling import counter_generator
from ..errors import ConfigError

LEVEL = 0.95
RESAMPLES = 1000
CHUNK = 2**22  # indices drawn at a time


class Estimate(NamedTuple):
    """A figure and its 95% interval, None where it has none; `_asdict()`: of a results row."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def per_token(nats: Tensor, tokens: Tensor) -> Tensor:
    return nats / tokens


def perplexity(nats: Tensor, tokens: Tensor) -> Tensor:
    """Return exp(total nats / total tokens), as the hosts aggregate."""
    return (nats / tokens).exp()


class Scores(NamedTuple):
    """Nats and the tokens they are of, by sample; each (samples,) float64."""

    nats: Tensor
    tokens: Tensor

    @property
    def value(self) -> float:
        """Return nats per token: every token counts once."""
        return float(per_token(self.nats.sum(), self.tokens.sum()))

    @property
    def perplexity(self) -> float:
        return float(perplexity(self.nats.sum(), self.tokens.sum()))

    @property
    def log_error(self) -> float:
        """Return the standard error of nats per token, and so of log perplexity."""
        parts = (self.nats - self.tokens * self.value) / self.tokens.mean()
        return float(parts.std() / len(parts) ** 0.5)

    def estimate(self, statistic: Callable[..., Tensor] = per_token, **how: Any) -> Estimate:
        """Return the `bootstrap` of nats per token, or of another statistic of both sums."""
        return bootstrap(statistic, self.nats, self.tokens, **how)


def finite(what: str, values: Tensor) -> Tensor:
    """Return the values; raise ConfigError naming the first which is not finite."""
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        where = int(bad[0, 0])
        raise ConfigError(
            f"{what} of sample {where} is {float(values[where]):g} ({len(bad)} of "
            f"{len(values)} samples are not finite): look for NaN in the model's "
            "weights, or evaluate in float32."
        )
    return values


def bootstrap(
    statistic: Callable[..., Tensor],
    *columns: Tensor,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return a statistic of sums over samples, with its 95% percentile bootstrap interval.

    columns: each (samples,), resampled together; of two models on the same latents, say, so
    that what the latents share cancels. statistic(*sums) maps their sums, (1,) for the
    estimate and (k,) for k resamples at a time, to the same shape. Same seed, same
    interval. Raises ConfigError for fewer than two samples or values that are not finite.
    """
    n = len(columns[0])
    if n < 2:
        raise ConfigError(f"an interval needs at least 2 samples and has {n}: raise num_samples.")
    doubles = (torch.as_tensor(column).double().cpu() for column in columns)
    table = torch.stack([finite("The figure", column) for column in doubles], -1)
    generator = counter_generator(seed, "bootstrap")
    drawn = []
    for part in torch.arange(resamples).split(max(1, CHUNK // n)):
        index = torch.randint(n, (len(part), n), generator=generator)
        drawn.append(statistic(*table[index].sum(1).unbind(-1)))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.cat(drawn).nanquantile(tails).tolist()
    (value,) = statistic(*table.sum(0, keepdim=True).unbind(-1)).tolist()
    return Estimate(value, low, high)


def mean(values: Tensor, **how: Any) -> Estimate:
    """Return the mean of (samples,) values, with its bootstrap interval."""
    values = torch.as_tensor(values).double()
    return bootstrap(per_token, values, torch.ones_like(values), **how)


def correlation(scores: Scores, values: Tensor) -> float:
    """Return the correlation of the errors of nats per token and of the mean of values.

    values: (samples,), of the same samples. To first order the error of a ratio of sums is
    the mean of (nats - ratio * tokens) / mean tokens. 0 where one of the two is constant.
    """
    nats, tokens = (x.double().cpu() for x in scores)
    a = nats - tokens * (nats.sum() / tokens.sum())
    b = values.double().cpu() - values.double().mean().cpu()
    norm = float(a.norm() * b.norm())
    return max(-1.0, min(1.0, float(a @ b) / norm)) if norm > 0 else 0.0


def jackknife(value: float | Tensor, without: Tensor) -> Estimate:
    """Return value +- 1.96 standard errors from `without`: it, each sample left out once."""
    n, value = len(without), float(value)
    if n < 2:
        return Estimate(value)
    error = float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)
