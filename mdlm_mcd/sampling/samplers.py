"""Samplers: functions of a `Chain` and a state z (batch, length) with masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from ..errors import WHOLE, ConfigError, require, require_one_of
from ..laws import draw_u, rank
from .chain import Chain, opening_steps, probabilities
from .latent import Latent

SCORES = ("max", "margin", "entropy", "drawn", "raw")


def ancestral(chain: Chain, z: Tensor, remask: float | Sequence[float] = 0.0) -> Tensor:
    """Draw z_s ~ q(z_s | z_t, x0 = x_theta(z_t)), Eq. 6, step by step.

    The ancestral sampler of MDLM (Sahoo et al. 2024, arXiv 2406.07524): a masked token
    opens at the step t -> s with probability (alpha_s - alpha_t) / (1 - alpha_t), and
    is then drawn from the prediction, which is kept while z does not change (the
    hosts' `ancestral_cache`) unless the network is time-conditioned.

    remask: sigma_t of ReMDM (Wang et al. 2025, arXiv 2503.00307), a number, its capped
        schedule, or one a step; what exceeds (1 - alpha_s) / alpha_t counts as that. An open
        token is masked again with probability sigma_t, and a masked one opens with
        (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t), so that given x0 each token is
        open at s with probability alpha_s, as without. A prompt's tokens stay.

    Raises ConfigError for a chance out of its range, or the wrong count of them.
    """
    caps = [remask] * chain.steps if isinstance(remask, int | float) else list(remask)
    fine = len(caps) == chain.steps and all(0 <= cap <= 1 for cap in caps)
    require(fine, "remask", remask, f"within [0, 1], or a list of {chain.steps}, one a step")
    keeps = not getattr(chain.denoise, "time_conditioned", False)
    free, logits = z == chain.mask_index, None
    for step in range(chain.steps):
        rows = z == chain.mask_index
        before, after = chain.levels[step : step + 2]
        sigma = min(caps[step], (1.0 - after) / before) if before else 0.0
        if rows.any():
            if logits is None:
                logits = chain.logits(z, rows, before)
            opens = min(chain.opens(step) + sigma * before / (1.0 - before), 1.0)
            posterior = chain.law(logits, chain.fraction(step), chain.greedy(step)).mul_(opens)
            posterior[:, chain.mask_index] = 1.0 - opens
            drawn = chain.draw(posterior)
            del posterior  # else its memory is still used during the next prediction
            z = z.masked_scatter(rows, drawn)
            if not keeps or (drawn != chain.mask_index).any():
                logits = None
        elif not any(caps[step:]):
            break
        if sigma:
            again = free & ~rows & (chain.uniform(*z.shape, device=z.device) < sigma)
            if again.any():
                z, logits = z.masked_fill(again, chain.mask_index), None
        chain.report(step, z)
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

    The first-hitting sampler of Zheng et al. 2024 (arXiv 2409.02908): with m tokens masked at level
    alpha, the next opens at 1 - (1 - alpha) v^(1/m), v ~ U[0, 1], the least of m uniforms on
    [alpha, 1], and is any of the m. Each sequence has its own times, which the temperature and a
    time-conditioned network see. Evaluations: as many as tokens to open in the fullest sequence.
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
    max_tokens: int | None = None,
    block: int | None = None,
    spacing: int | None = None,
    eos_after: float = 0.0,
    eos_index: int | None = None,
) -> Tensor:
    """Open the most certain tokens first; the law is not that of `ancestral`.

    MaskGIT's order (Chang et al. 2022, arXiv 2202.04200).

    score: what is certain: `max`, the largest probability; `margin`, its lead over the
        second; `entropy`, the least; `drawn`, the probability of the drawn token
        (MaskGIT); `raw`, that before temperature and nucleus (CD4LM).
    score_noise: Gumbel noise of this scale, falling to 0 at the last step, is added to
        the logarithm of the score (to minus the entropy).
    threshold: every token whose largest probability (`raw`: whose score) reaches it opens,
        and at least one a sequence; `steps` is then the most evaluations. None: each step
        opens its share of the tokens that were masked at the start.
    max_tokens: with a threshold, the most tokens of a sequence that a step before the last opens.
    block: so many positions open before the next so many begin, from the first masked one on.
    spacing: of two tokens less than max(2, spacing * m / block) apart, rounded down, the
        more certain opens, and the other waits for a later step, or until no others are
        left to fill a step's share; m: how many of the block are masked. No block: the
        whole sequence is one. The spacing filter of DUS (arXiv 2506.19037v4, Section 4.4).
    eos_after: a drawn `eos_index` is the least certain, and not above the threshold, until
        this share of the tokens is open (CD4LM, arXiv 2601.02236).

    Raises ConfigError for an unknown score, or numbers out of their range.
    """
    require_one_of(SCORES, "score", score)
    require(score_noise >= 0, "score_noise", score_noise, "at least 0")
    require(threshold is None or 0 < threshold <= 1, "threshold", threshold, "within (0, 1]")
    for key, n in (("max_tokens", max_tokens), ("block", block), ("spacing", spacing)):
        require(n is None or (isinstance(n, Integral) and n >= 1), key, n, WHOLE)
    if max_tokens:
        require(threshold is not None, "threshold", threshold, "set for max_tokens to bound it")
    require(0 <= eos_after <= 1, "eos_after", eos_after, "within [0, 1]")
    if eos_after:
        require(eos_index is not None, "eos_index", eos_index, "a token's id for eos_after")
    length = z.shape[1]
    size = block or length
    free = z == chain.mask_index
    start, first = free.sum(-1), free.long().argmax(-1, keepdim=True)
    blocks = (torch.arange(length, device=z.device) - first).clamp(min=0) // size
    for step in range(chain.steps):
        rows = z == chain.mask_index
        left = rows.sum(-1)
        if not left.any():
            break
        last = step == chain.steps - 1
        if threshold is None:
            target = (start * chain.levels[step + 1] + 0.5).floor().long()
            count = target - (start - left)
        else:
            count = left if last else left.clamp(max=1)
        if count.any():
            level = 1 - left.double() / start.clamp(min=1)
            # Blocks that this step reaches: before them fewer than `count` are masked.
            earlier = (rows.cumsum(-1) - rows.long()).gather(-1, first + blocks * size)
            rows = rows & (earlier < count.clamp(min=1)[:, None])
            logits = chain.logits(z, rows, level)
            share: float | Tensor = chain.fraction(step)
            if threshold is not None:  # how many steps there will be is not known
                share = level.repeat_interleave(rows.sum(-1))
            p = chain.law(logits, share)
            drawn = p.argmax(-1) if chain.greedy(step) else chain.draw(p)
            if score == "raw":
                del p  # else its memory is used beside that of the next
                p = probabilities(logits, chain.mask_index, dtype=chain.dtype)
            certainty = _certainty(score, p, drawn)
            if score_noise:
                race = chain.uniform(len(p), device=z.device).log().neg()
                certainty = certainty - score_noise * (1 - chain.fraction(step)) * race.log()
            chosen, place = rows, _place(chain, rows, certainty, logits.dtype)
            if threshold is not None:
                chance = p.amax(-1) if score != "raw" else _drawn(p, drawn)
                chosen = torch.zeros_like(rows).masked_scatter(rows, chance >= threshold)
            del p, logits  # else their memory is still used during the next prediction
            if eos_after:
                assert eos_index is not None  # checked above
                early = torch.zeros_like(rows).masked_scatter(rows, drawn == eos_index)
                early &= (level < eos_after)[:, None]
                chosen, place = chosen & ~early, rank((early + 2 * ~rows) * length + place)
            chosen = chosen | (rows & (place < 1))
            if spacing:
                chosen = _apart(place, chosen, spacing * rows.sum(-1).clamp(max=size) // size)
            if threshold is not None and not last:
                count = chosen.sum(-1).clamp(max=max_tokens or length)
            order = torch.where(rows, 2 * blocks + ~chosen, 2 * length)  # block by block
            opens = rows & (rank(order * length + place) < count[:, None])
            z = torch.where(opens, z.masked_scatter(rows, drawn), z)
        chain.report(step, z)
    return z


def _drawn(p: Tensor, drawn: Tensor) -> Tensor:
    """Return the probability of each drawn token, (rows,)."""
    return p.gather(-1, drawn[:, None]).squeeze(-1)


def _apart(place: Tensor, chosen: Tensor, gap: Tensor) -> Tensor:
    """Thin (batch, length) `chosen`, the first in place first: less than `gap` apart none stay.

    gap: (batch,), and at least 2.
    """
    position = torch.arange(place.shape[1], device=place.device)
    left, kept = chosen, torch.zeros_like(chosen)
    while left.any():
        first = place.masked_fill(~left, place.shape[1]).argmin(-1, keepdim=True)
        kept |= left & (position == first)
        left = left & ((position - first).abs() >= gap.clamp(min=2)[:, None])
    return kept


def _certainty(score: str, p: Tensor, drawn: Tensor) -> Tensor:
    """Return (rows,) on a logarithmic scale; larger is more certain."""
    if score == "entropy":
        return -torch.special.entr(p).sum(-1)
    if score in ("drawn", "raw"):
        chance = _drawn(p, drawn)
    elif score == "margin":
        first, second = p.topk(2, dim=-1).values.unbind(-1)
        chance = first - second
    else:
        chance = p.amax(-1)
    return chance.clamp(min=torch.finfo(p.dtype).tiny).log()


def _place(chain: Chain, rows: Tensor, certainty: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each position's rank in its sequence, (batch, length), most certain first.

    dtype: of the logits; what its rounding could set apart is a tie.
    """
    best = torch.full(rows.shape, -torch.inf, dtype=torch.float64, device=rows.device)
    best[rows] = certainty.double()
    if dtype != torch.float64:  # of exact denoisers
        best = ((best - best.amax(-1, keepdim=True)) / torch.finfo(dtype).eps ** 0.5).round()
    # Ties, such as all tokens of an empty sequence, go in a random order: by position
    # neighbours would open together, and by rounding the same in all sequences of a batch.
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
