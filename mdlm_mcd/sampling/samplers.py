"""The samplers: functions of a `Chain` and a state z (batch, length) with masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from ..laws import draw_u
from .chain import Chain, is_time_conditioned
from .latent import Latent

SCORES = ("max", "margin", "entropy", "drawn")


def ancestral(chain: Chain, z: Tensor) -> Tensor:
    """Eq. 6: z_s ~ q(z_s | z_t, x0 = x_theta(z_t)), step by step; the reference.

    A masked token opens at the step t -> s with probability
    (alpha_s - alpha_t) / (1 - alpha_t), and is then drawn from the prediction. The
    prediction is kept while z does not change, as the hosts' `ancestral_cache` does,
    unless the network is conditioned on time.
    """
    keeps = not is_time_conditioned(chain.denoise)
    logits = None
    for step, (before, after) in enumerate(itertools.pairwise(chain.levels)):
        rows = z == chain.mask_index
        if not rows.any():
            break
        logits = chain.logits(z, rows, before) if logits is None else logits
        p = chain.sharpen(chain.law(logits, chain.fraction(step)), chain.greedy(step))
        opens = (after - before) / (1.0 - before)
        posterior = p.mul_(opens)
        posterior[:, chain.mask_index] = 1.0 - opens
        drawn = chain.draw(posterior)
        z = z.masked_scatter(rows, drawn)
        if not keeps or (drawn != chain.mask_index).any():
            logits = None
        chain.seen(step, z)
        del p, posterior  # or they stand beside the next prediction
    return z


def sparse(chain: Chain, z: Tensor, u_law="iid", u_step=None, stratified=False):
    """The same law as `ancestral`, for the price of the tokens that open.

    A coin decides which masked tokens open now; only they are projected and drawn.
    Under another law than iid, a u decides, as in `locked`.
    """
    if u_law != "iid" or u_step is not None or stratified:
        generator = torch.Generator().manual_seed(_seed(chain))
        u = draw_u(
            *z.shape,
            u_law,
            step=u_step,
            stratified=stratified,
            prefix="",
            generator=generator,
            dtype=torch.float64,
        )
        return _opened_by(chain, z, u, lambda p, rows: chain.draw(p))
    for step, (before, after) in enumerate(itertools.pairwise(chain.levels)):
        coin = chain.uniform(*z.shape, device=z.device)
        opens = (after - before) / (1.0 - before)
        rows = (z == chain.mask_index) & (coin < opens)
        if rows.any():
            z = z.masked_scatter(rows, chain.draw(chain.predict(z, rows, step)))
        chain.seen(step, z)
    return z


def locked(
    chain: Chain, z: Tensor, latent=None, u_law="iid", u_step=None, stratified=False
) -> Tensor:
    """The trajectory as a function of a `Latent`: common random numbers.

    Token i opens at the first step whose level, alpha_s rescaled to 0 at the start,
    exceeds u_i, with the value argmax(log p / T + Gumbel noise). With iid u the law is
    `ancestral`'s. Models, temperatures and numbers of steps compared from one latent
    differ by what they are, and far less by luck.
    """
    if latent is None:
        latent = Latent(_seed(chain), u_law, u_step, stratified)
    elif (u_law, u_step, stratified) != ("iid", None, False):
        raise ConfigError(
            f"u_law={u_law} is given beside a latent that has its own law "
            f"({latent.u_law}): name the law in Latent(...)."
        )
    return _opened_by(
        chain,
        z,
        latent.u(*z.shape),
        lambda p, rows: p.div_(latent.race(rows, p.shape[-1])).argmax(-1),
    )


def first_hitting(chain: Chain, z: Tensor) -> Tensor:
    """One token of each sequence an evaluation: `ancestral` with infinitely many steps.

    Zheng et al. 2024 (arXiv 2409.02908): with m tokens masked at level alpha, the next
    opens at 1 - (1 - alpha) v^(1/m), v ~ U[0, 1], the least of m uniforms on
    [alpha, 1], and is any of the m. Each sequence has times of its own, for a network
    conditioned on time and a temperature that changes. There are no steps: as many
    evaluations as tokens to open in the fullest sequence.
    """
    level = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for step in itertools.count():
        masked = z == chain.mask_index
        left = masked.sum(-1)
        active = left > 0
        if not active.any():
            return z
        v = chain.uniform(len(z), device=z.device)
        level = 1 - (1 - level) * v ** (1 / left.clamp(min=1))
        ticket = chain.uniform(*z.shape, device=z.device).masked_fill(~masked, -1.0)
        rows = torch.zeros_like(masked)
        rows[active.nonzero().squeeze(-1), ticket.argmax(-1)[active]] = True
        p = chain.law(chain.logits(z, rows, level), level[active])
        p = chain.sharpen(p, left[active] <= chain.greedy_tail)
        z = z.masked_scatter(rows, chain.draw(p))
        chain.seen(step, z)


def confidence(chain: Chain, z: Tensor, score="max", score_noise=0.0, threshold=None) -> Tensor:
    """The most certain tokens first; not the law of `ancestral`, nor meant to be.

    score: what is certain: `max`, the largest probability; `margin`, its lead over the
        second; `entropy`, the least; `drawn`, the probability of the token that was
        drawn (MaskGIT).
    score_noise: Gumbel noise of this scale, falling to 0 at the last step, is added to
        the logarithm of the score (to minus the entropy).
    threshold: every token whose largest probability reaches it opens, and at least one
        a sequence; `steps` is then the most evaluations. None: each step opens its
        share of the tokens that were masked at the start.
    """
    if score not in SCORES:
        raise ConfigError(f"score={score} is unknown: choose one of {', '.join(SCORES)}.")
    if score_noise < 0 or (threshold is not None and not 0 < threshold <= 1):
        raise ConfigError(
            f"score_noise={score_noise} must not be negative and threshold={threshold} "
            "lie within (0, 1]."
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
                scale = score_noise * (1 - chain.fraction(step))
                certainty = certainty - scale * race.log()
            best = torch.full(z.shape, -torch.inf, dtype=torch.float64, device=z.device)
            best[rows] = certainty.double()
            # Equals, as all may be of an empty sequence, go in a random order: by
            # position neighbours would open together.
            tie = chain.uniform(*z.shape, device=z.device).argsort(dim=-1)
            order = best.gather(-1, tie).argsort(dim=-1, descending=True, stable=True)
            place = tie.gather(-1, order).argsort(dim=-1)
            opens = rows & (place < count[:, None])
            if threshold is not None:
                sure = torch.zeros_like(rows).masked_scatter(rows, p.amax(-1) >= threshold)
                opens |= sure
            z = torch.where(opens, z.masked_scatter(rows, drawn), z)
            del p
        chain.seen(step, z)
    return z


def _certainty(score: str, p: Tensor, drawn: Tensor) -> Tensor:
    """(rows,), on a logarithmic scale; larger is more certain."""
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


def _seed(chain: Chain) -> int:
    """A seed for generators of the CPU, out of the sampler's own."""
    device = chain.generator.device if chain.generator is not None else None
    drawn = torch.randint(1 << 62, (), generator=chain.generator, device=device)
    return int(drawn)


def _opened_by(
    chain: Chain, z: Tensor, u: Tensor, value: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Token i opens at the first step whose level exceeds u_i.

    u: (batch, length) float64; value(p, rows): the tokens drawn from p (rows, vocab).
    """
    ends = torch.tensor(chain.levels[1:], dtype=torch.float64)
    plan = torch.searchsorted(ends, u.cpu(), right=True).clamp(max=chain.steps - 1)
    plan = plan.to(z.device)
    for step in range(chain.steps):
        rows = (z == chain.mask_index) & (plan == step)
        if rows.any():
            z = z.masked_scatter(rows, value(chain.predict(z, rows, step), rows))
        chain.seen(step, z)
    return z
