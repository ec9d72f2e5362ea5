"""Compute -log p of text under samplers whose likelihood is a short sum: no bound.

Given the steps at which tokens open, the likelihood of a text is a product, as for an
autoregressive model in that order. It is exact where few orders are possible
(`comb_likelihood`) or the text decides its own (`confidence_likelihood`; DUEL, arXiv
2603.01367). Elsewhere it is a mean over orders, of which `bounds` has the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..coupling import Alpha
from ..errors import ConfigError
from ..sampling.chain import Chain, Denoise, Temperature, levels_of, temperature_path
from ..sampling.samplers import confidence
from . import bounds
from .intervals import Scores, finite


def in_equal_shares(alpha: Alpha, steps: int) -> bool:
    """Return whether each step opens the same share of the tokens."""
    return all(abs(x - k / steps) <= 1e-6 for k, x in enumerate(levels_of(alpha, steps)))


@torch.no_grad()
def comb_likelihood(
    denoise: Denoise,
    tokens: Tensor,
    steps: int,
    *,
    alpha: Alpha,
    mask_index: int,
    temperature: Temperature = 1.0,
    batch_size: int = 64,
) -> Scores:
    """Compute -log p_N of tokens under N steps with u_law=lattice, u_step=1/N.

    Where each step opens an equal share, u_0 and the reflection leave 2N orders, equally
    likely: token i opens at step (j + i) mod N, or at N - 1 less that. So log p_N is a
    log-mean-exp over 2N paths of at most N network passes, 2N^2 a row.

    tokens: (rows, length); arguments as of `bounds.n_step_nelbo`. Raises ConfigError for
    a schedule whose steps open unequal shares, and as that one.
    """
    levels = levels_of(alpha, steps)
    if not in_equal_shares(alpha, steps):
        raise ConfigError(
            f"steps={steps} open unequal shares under this noise schedule, and under the lattice "
            "of 1/N no order is then known: use a log-linear one, or bounds.n_step_nelbo."
        )
    how = dict[str, Any](alpha=alpha, mask_index=mask_index)
    how |= dict(temperature=temperature, batch_size=batch_size)
    place, paths = torch.arange(tokens.shape[1]), []
    for shift in range(steps):
        order = (shift + place) % steps
        for path in (order, steps - 1 - order):
            scores = bounds.along(denoise, tokens, path.expand(tokens.shape), levels, **how)
            paths.append(-scores.nats)
    nats = math.log(2 * steps) - torch.stack(paths).logsumexp(0)
    return Scores(finite("The likelihood", nats), scores.tokens)


class _Forced(Chain):
    """A chain that draws the tokens of a text (batch, length), and adds up what they cost.

    nats: (batch,) of the tokens opened so far.
    """

    def __init__(self, text: Tensor, *chain: Any):
        super().__init__(*chain)
        self.text = text
        self.nats = torch.zeros(len(text), dtype=torch.float64, device=text.device)
        self._rows: Tensor | None = None  # what was predicted in this step, if anything
        self._log_p: Tensor | None = None

    def logits(self, z: Tensor, rows: Tensor, level: float | Tensor) -> Tensor:
        self._rows = rows
        return super().logits(z, rows, level)

    def law(self, logits: Tensor, fraction: float | Tensor, *greedy: Any) -> Tensor:
        # At a low temperature a token's probability is 0 where its logarithm is finite.
        heated = logits.double() / self.heat(fraction, logits)
        heated[:, self.mask_index] = -math.inf
        self._log_p = heated.log_softmax(-1)
        return super().law(logits, fraction, *greedy)

    def draw(self, p: Tensor) -> Tensor:
        assert self._rows is not None and self._log_p is not None
        drawn = self.text[self._rows]
        self._cost = torch.zeros(self.text.shape, dtype=torch.float64, device=p.device)
        self._cost[self._rows] = -self._log_p.gather(-1, drawn[:, None]).squeeze(-1)
        return drawn

    def report(self, step: int, z: Tensor) -> None:
        if self._rows is not None:  # else the step opened nothing
            opened = self._rows & (z != self.mask_index)
            self.nats += self._cost.where(opened, 0.0).sum(-1)
        self._rows = None


def order_is_drawn(
    score: str = "max", score_noise: float = 0.0, eos_after: float = 0.0, **options: Any
) -> bool:
    """Return whether what opens under `confidence` depends on draws, not on z alone."""
    return score in ("drawn", "raw") or score_noise > 0 or eos_after > 0


@torch.no_grad()
def confidence_likelihood(
    denoise: Denoise,
    tokens: Tensor,
    steps: int,
    *,
    alpha: Alpha,
    mask_index: int,
    temperature: Temperature = 1.0,
    batch_size: int = 64,
    schedule: str | Sequence[float] | None = None,
    **options: Any,
) -> Scores:
    """Compute -log p_N of tokens under the sampler `confidence`, N network passes a row.

    Its order is a function of what is open, so a text has one, and the sampler is made to draw
    that text. Scores that tie open in a drawn order: the mean over draws is then a bound. To a
    network of rotary positions all places of an empty sequence tie.

    options: of the sampler, but for those under which the order is drawn, too
        (`order_is_drawn`): ConfigError, as for tokens with mask_index among them.
    """
    if order_is_drawn(**options):
        raise ConfigError(
            f"score={options.get('score', 'max')} with score_noise="
            f"{options.get('score_noise', 0)} and eos_after={options.get('eos_after', 0)} draws "
            "the order of a text, which then has no likelihood of one path: use score=max, margin "
            "or entropy without the others."
        )
    bounds.check(tokens, mask_index)
    levels, heat, nats = levels_of(alpha, steps, schedule), temperature_path(temperature), []
    for text in tokens.split(batch_size):
        generator = torch.Generator(text.device).manual_seed(0)  # ties alone
        chain = _Forced(text, denoise, alpha, levels, mask_index, heat, generator)
        confidence(chain, torch.full_like(text, mask_index), **options)
        nats.append(chain.nats.cpu())
    return Scores(finite("The likelihood", torch.cat(nats)), bounds.lengths(tokens))
