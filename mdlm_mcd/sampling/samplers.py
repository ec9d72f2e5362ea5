"""Samplers: functions of a `Chain` and a state z (batch, length) with masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from ..laws import draw_u
from .chain import Chain, is_time_conditioned, opening_steps
from .latent import Latent

SCORES = ("max", "margin", "entropy", "drawn")


def ancestral(chain: Chain, z: Tensor) -> Tensor:
    """Draw z_s ~ q(z_s | z_t, x0 = x_theta(z_t)), Eq. 6, step by step.

    The ancestral sampler of MDLM (Sahoo et al. 2024, arXiv 2406.07524): a masked token
    opens at the step t -> s with probability (alpha_s - alpha_t) / (1 - alpha_t), and
    is then drawn from the prediction, which is kept while z does not change (the
    hosts' `ancestral_cache`) unless the network is time-conditioned.
    """
    keeps = not is_time_conditioned(chain.denoise)
    logits = None
    for step in range(chain.steps):
        rows = z == chain.mask_index
        if not rows.any():
            break
        if logits is None:
            logits = chain.logits(z, rows, chain.levels[step])
        p = chain.law(logits, chain.fraction(step), chain.greedy(step))
        posterior = p.mul_(chain.opens(step))
        posterior[:, chain.mask_index] = 1.0 - chain.opens(step)
        drawn = chain.draw(posterior)
        z = z.masked_scatter(rows, drawn)
        if not keeps or (drawn != chain.mask_index).any():
            logits = None
        chain.report(step, z)
        del p, posterior  # else their memory is still used during the next prediction
    return z


def sparse(
    chain: Chain,
    z: Tensor,
    u_law: str = "iid",
    u_step: float | None = None,
    stratified: bool = False,
) -> Tensor:
    """Draw with the law of `ancestral`, projecting only the tokens that open.

    A coin decides which masked tokens open in a step; under another law than iid a u
    decides (`laws.draw_u`), as in `locked`.
    """

    def by_coin(step: int) -> Tensor:
        return chain.uniform(*z.shape, device=z.device) < chain.opens(step)

    chosen: Callable[[int], Tensor] = by_coin
    if u_law != "iid" or u_step is not None or stratified:
        u = draw_u(
            z.shape[0],
            z.shape[1],
            u_law,
            step=u_step,
            stratified=stratified,
            free=(z == chain.mask_index).cpu(),
            prefix="",
            generator=torch.Generator().manual_seed(_seed(chain)),
            dtype=torch.float64,
        )
        chosen = _at_levels(chain, z, u)
    return _open_step_by_step(chain, z, chosen, lambda p, rows: chain.draw(p))


def locked(
    chain: Chain,
    z: Tensor,
    latent: Latent | None = None,
    u_law: str = "iid",
    u_step: float | None = None,
    stratified: bool = False,
) -> Tensor:
    """Draw a trajectory that is a function of a `Latent`: common random numbers.

    Theorem 3.3 run backwards: token i opens at the first step whose level, alpha_s
    rescaled to 0 at the start, exceeds u_i, with the value argmax(log p / T + Gumbel
    noise). With iid u the law is `ancestral`'s. Models, temperatures and numbers of
    steps compared from one latent differ by what they are, and far less by chance.

    Raises ConfigError for a law of u beside a latent, which has its own.
    """
    if latent is None:
        latent = Latent(_seed(chain), u_law, u_step, stratified)
    elif (u_law, u_step, stratified) != ("iid", None, False):
        raise ConfigError(
            f"u_law={u_law} is given beside a latent that has its own law "
            f"({latent.u_law}): name the law in Latent(...)."
        )

    def value(p: Tensor, rows: Tensor) -> Tensor:
        return p.div_(latent.race(rows, p.shape[-1])).argmax(-1)

    u = latent.u(z.shape[0], z.shape[1], (z == chain.mask_index).cpu())
    return _open_step_by_step(chain, z, _at_levels(chain, z, u), value)


def first_hitting(chain: Chain, z: Tensor) -> Tensor:
    """Open one token of each sequence an evaluation: `ancestral` at infinitely many steps.

    The first-hitting sampler of Zheng et al. 2024 (arXiv 2409.02908): with m tokens
    masked at level alpha, the next opens at 1 - (1 - alpha) v^(1/m), v ~ U[0, 1], the
    least of m uniforms on [alpha, 1], and is any of the m. Each sequence has its own
    times, which the temperature and a time-conditioned network see. Evaluations: as
    many as tokens to open in the fullest sequence.
    """
    level = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    step = 0
    while (masked := z == chain.mask_index).any():
        left = masked.sum(-1)
        active = left > 0
        v = chain.uniform(len(z), device=z.device)
        level = 1 - (1 - level) * v ** (1 / left.clamp(min=1))
        ticket = chain.uniform(*z.shape, device=z.device).masked_fill(~masked, -1.0)
        rows = torch.zeros_like(masked)
        rows[active.nonzero().squeeze(-1), ticket.argmax(-1)[active]] = True
        greedy = left[active] <= chain.greedy_tail
        p = chain.law(chain.logits(z, rows, level), level[active], greedy)
        z = z.masked_scatter(rows, chain.draw(p))
        chain.report(step, z)
        step += 1
    return z


def confidence(
    chain: Chain,
    z: Tensor,
    score: str = "max",
    score_noise: float = 0.0,
    threshold: float | None = None,
) -> Tensor:
    """Open the most certain tokens first; the law is not that of `ancestral`.

    MaskGIT's order (Chang et al. 2022, arXiv 2202.04200).

    score: what is certain: `max`, the largest probability; `margin`, its lead over the
        second; `entropy`, the least; `drawn`, the probability of the token that was
        drawn (MaskGIT).
    score_noise: Gumbel noise of this scale, falling to 0 at the last step, is added to
        the logarithm of the score (to minus the entropy).
    threshold: every token whose largest probability reaches it opens, and at least one
        a sequence; `steps` is then the most evaluations. None: each step opens its
        share of the tokens that were masked at the start.

    Raises ConfigError for an unknown score, or a number out of its range.
    """
    if score not in SCORES:
        raise ConfigError(f"score={score} is unknown: choose one of {', '.join(SCORES)}.")
    if score_noise < 0 or (threshold is not None and not 0 < threshold <= 1):
        raise ConfigError(
            f"score_noise={score_noise} must not be negative and threshold={threshold} "
            "must lie within (0, 1]."
        )
    start = (z == chain.mask_index).sum(-1)
    for step in range(chain.steps):
        rows = z == chain.mask_index
        left = rows.sum(-1)
        if not left.any():
            break
        if step == chain.steps - 1:
            count = left
        elif threshold is None:
            target = (start * chain.levels[step + 1] + 0.5).floor().long()
            count = target - (start - left)
        else:
            count = left.clamp(max=1)
        if count.any():
            level = 1 - left.double() / start.clamp(min=1)
            p = chain.law(chain.logits(z, rows, level), chain.fraction(step))
            drawn = p.argmax(-1) if chain.greedy(step) else chain.draw(p)
            certainty = _certainty(score, p, drawn)
            if score_noise:
                race = chain.uniform(len(p), device=z.device).log().neg()
                certainty = certainty - score_noise * (1 - chain.fraction(step)) * race.log()
            opens = rows & (_place(chain, rows, certainty) < count[:, None])
            if threshold is not None:
                opens |= torch.zeros_like(rows).masked_scatter(rows, p.amax(-1) >= threshold)
            z = torch.where(opens, z.masked_scatter(rows, drawn), z)
            del p  # else its memory is still used during the next prediction
        chain.report(step, z)
    return z


def _certainty(score: str, p: Tensor, drawn: Tensor) -> Tensor:
    """Return (rows,) on a logarithmic scale; larger is more certain."""
    if score == "entropy":
        return -torch.special.entr(p).sum(-1)
    if score == "drawn":
        chance = p.gather(-1, drawn[:, None]).squeeze(-1)
    elif score == "margin":
        first, second = p.topk(2, dim=-1).values.unbind(-1)
        chance = first - second
    else:
        chance = p.amax(-1)
    return chance.clamp(min=torch.finfo(p.dtype).tiny).log()


def _place(chain: Chain, rows: Tensor, certainty: Tensor) -> Tensor:
    """Return each position's rank in its sequence, (batch, length), most certain first."""
    best = torch.full(rows.shape, -torch.inf, dtype=torch.float64, device=rows.device)
    best[rows] = certainty.double()
    # Ties, such as all tokens of an empty sequence, go in a random order: by position
    # neighbours would open together.
    tie = chain.uniform(*rows.shape, device=rows.device).argsort(dim=-1)
    order = best.gather(-1, tie).argsort(dim=-1, descending=True, stable=True)
    return tie.gather(-1, order).argsort(dim=-1)


def _seed(chain: Chain) -> int:
    """Draw a seed for CPU generators from the sampler's own generator."""
    device = chain.generator.device if chain.generator is not None else None
    return int(torch.randint(1 << 62, (), generator=chain.generator, device=device))


def _at_levels(chain: Chain, z: Tensor, u: Tensor) -> Callable[[int], Tensor]:
    """Open token i at the first step whose level exceeds u_i; u: float64 on the CPU."""
    plan = opening_steps(u.cpu(), chain.levels).to(z.device)
    return lambda step: plan == step


def _open_step_by_step(
    chain: Chain,
    z: Tensor,
    chosen: Callable[[int], Tensor],
    value: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Open the masked tokens among chosen(step), (batch, length) bool, in each step.

    value(p, rows): the tokens drawn from p (rows, vocab).
    """
    for step in range(chain.steps):
        rows = (z == chain.mask_index) & chosen(step)
        if rows.any():
            z = z.masked_scatter(rows, value(chain.predict(z, rows, step), rows))
        chain.report(step, z)
    return z
