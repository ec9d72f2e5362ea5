"""Intervals over samples: the bootstrap, the paired bootstrap and the jackknife.

A statistic of means, ratios of sums or exp of either is resampled; a statistic of
pooled counts (an entropy, a distance of laws, distinct-n) is not, since a resample
repeats samples and so looks less diverse than any fresh draw. It gets a jackknife.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..coupling import counter_generator
from ..errors import ConfigError

RESAMPLES = 1000
CHUNK = 2**22  # indices drawn at a time


class Estimate(NamedTuple):
    """A figure and its 95% interval; `_asdict()` is its place in a results row.

    low and high are None where there is no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None


class Scores(NamedTuple):
    """Nats and the tokens they are of, by sample; each (samples,) float64."""

    nats: Tensor
    tokens: Tensor

    @property
    def value(self) -> float:
        """Nats per token: every token counts once."""
        return float(per_token(self.nats.sum(), self.tokens.sum()))

    @property
    def perplexity(self) -> float:
        return float(perplexity(self.nats.sum(), self.tokens.sum()))

    @property
    def log_error(self) -> float:
        """Standard error of the nats per token, and so of log perplexity."""
        parts = (self.nats - self.tokens * self.value) / self.tokens.mean()
        return float(parts.std() / len(parts) ** 0.5)

    def estimate(self, statistic: Callable[..., Tensor] | None = None, **how):
        """`bootstrap` of the nats per token, or of another statistic of both sums."""
        return bootstrap(statistic or per_token, self.nats, self.tokens, **how)


def per_token(nats: Tensor, tokens: Tensor) -> Tensor:
    return nats / tokens


def perplexity(nats: Tensor, tokens: Tensor) -> Tensor:
    """exp(total nats / total tokens), as the hosts aggregate."""
    return (nats / tokens).exp()


def finite(what: str, values: Tensor) -> Tensor:
    """The values; raises ConfigError that names the first which is not finite."""
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        where = int(bad[0, 0])
        raise ConfigError(
            f"{what} of sample {where} is {float(values[where]):g} ({len(bad)} of "
            f"{len(values)} samples are not finite): look for NaN in the model's "
            "weights, or evaluate in float32."
        )
    return values


def _columns(columns: Sequence[Tensor]) -> Tensor:
    """(samples, columns) float64, checked."""
    sizes = {len(column) for column in columns}
    if len(sizes) != 1:
        raise ConfigError(
            f"columns of {sorted(sizes)} samples cannot be resampled together: give "
            "each the same samples in the same order."
        )
    if min(sizes) < 2:
        raise ConfigError(
            f"an interval needs at least 2 samples and has {min(sizes)}: raise num_samples."
        )
    columns = [torch.as_tensor(column).double().cpu() for column in columns]
    return torch.stack([finite("The figure", column) for column in columns], -1)


def bootstrap(
    statistic: Callable[..., Tensor],
    *columns: Tensor,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:
    """A statistic of sums over samples, with its percentile bootstrap interval.

    columns: each (samples,), resampled together. statistic(*sums) is called with
    their sums, (1,) for the estimate and (k,) for k resamples at a time, and answers
    the same shape: `lambda nats, tokens: (nats / tokens).exp()`; a mean is the ratio
    of its sum to that of ones. Same seed, same interval.

    Raises ConfigError for fewer than two samples, columns of different lengths or
    values that are not finite.
    """
    table = _columns(columns)
    n = len(table)
    generator = counter_generator(seed, "bootstrap")
    drawn = []
    for part in torch.arange(resamples).split(max(1, CHUNK // n)):
        index = torch.randint(n, (len(part), n), generator=generator)
        drawn.append(statistic(*table[index].sum(1).unbind(-1)))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(drawn).nanquantile(tail).tolist()
    (value,) = statistic(*table.sum(0, keepdim=True).unbind(-1)).tolist()
    return Estimate(value, low, high)


def mean(values: Tensor, **how) -> Estimate:
    """The mean of (samples,) values, with its bootstrap interval."""
    values = torch.as_tensor(values).double()
    return bootstrap(per_token, values, torch.ones_like(values), **how)


def paired(
    statistic: Callable[..., Tensor], a: Sequence[Tensor], b: Sequence[Tensor], **how
) -> Estimate:
    """statistic(a) - statistic(b) where row i of both came from the same latent.

    a, b: the columns of `bootstrap`, for two models (or one at two step counts). The
    same rows are resampled on both sides, so what the latents share cancels.
    """
    k = len(a)
    return bootstrap(lambda *sums: statistic(*sums[:k]) - statistic(*sums[k:]), *a, *b, **how)


def correlation(scores: Scores, values: Tensor) -> float:
    """Of the errors of nats per token and of the mean of (samples,) values.

    Both are of the same samples: nats per token is a ratio of sums, whose error is, to
    first order, the mean of (nats - value * tokens) / mean tokens. 0 where one of the
    two does not vary.
    """
    nats, tokens = (x.double().cpu() for x in scores)
    a = nats - tokens * (nats.sum() / tokens.sum())
    b = values.double().cpu() - values.double().mean().cpu()
    norm = float(a.norm() * b.norm())
    return max(-1.0, min(1.0, float(a @ b) / norm)) if norm > 0 else 0.0


def jackknife(value: float | Tensor, without: Tensor) -> Estimate:
    """value +- 1.96 standard errors from `without`: it, each sample left out once."""
    n, value = len(without), float(value)
    if n < 2:
        return Estimate(value)
    error = float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)
