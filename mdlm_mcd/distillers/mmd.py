"""On-policy matching in representation space (MMD, arXiv 2610.06648) as a Lightning mixin.

Draws of the student's prediction at z_t of data fill the masked tokens. Some draws make a
candidate, and its reward is minus a squared maximum mean discrepancy (MMD) between features of
its draws and of the data, under a frozen network. REINFORCE on the masked tokens'
log-probabilities moves the student towards the better candidates.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .. import head, losses
from ..curriculum import Round
from ..errors import require
from .base import Distiller
from .rng import StepNoise
from .sdtt import draw_tokens
from .settings import number
from .teacher import Teacher


class MMD(Distiller):
    """Match the student's own draws with data, by features of the frozen teacher."""

    loss_kinds = ("ce",)
    schedule = ()
    least = {"candidates": 2, "draws": 2, "feature_block": 0}
    above = {"rbf_alpha": 0.0}

    def check_model(self) -> None:
        super().check_model()
        block, blocks = self.config.algo.feature_block, len(_core(self.backbone).blocks)
        wanted = f"below the model's {blocks} blocks, counted from 0: say {blocks // 4}"
        require(block < blocks, "algo.feature_block", block, wanted)
        self.teacher = FeatureTeacher(self.compiled, block)

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        algo, length = self.config.algo, x0.shape[1]
        many = algo.candidates * algo.draws
        t, _ = noise.times(self.config.training.sampling_eps or None)  # the host's own law
        alpha_t = self.host_alpha(t).to(x0.device)
        masked = noise.u(length) > alpha_t[:, None]
        z_t = torch.where(masked, self.mask_index, x0)
        student = self.encode(self.backbone, z_t, alpha_t, condition)
        counts = masked & (valid > 0)
        index = counts.flatten().nonzero().squeeze(-1)
        v = noise.by_row(
            "draws", lambda _, g: torch.rand(length, many, generator=g, dtype=torch.float64)
        )
        v = v.flatten(0, 1)[index]
        with torch.no_grad():
            drawn = draw_tokens(student, index, v, 1.0, self.mask_index, algo.head_chunk)
            filled = x0.repeat(many, 1, 1)
            filled.flatten(1)[:, index] = drawn.T
            real, alpha = self.features(x0, condition), number(algo, "rbf_alpha")
            rewards = torch.stack(
                [
                    reward(real, [self.features(z, condition) for z in candidate], counts, alpha)
                    for candidate in filled.split(algo.draws)
                ]
            )
            self._log_rewards(rewards, counts)
        parts = self.supervise(
            round_,
            student,
            None,
            filled.permute(1, 2, 0),
            counts,
            torch.zeros_like(counts),
            weight=factors(rewards, counts, valid, algo.draws),
        )
        return parts._replace(reveal=parts.reveal / many)  # -log p of a draw

    def features(self, z: Tensor, condition) -> Tensor:
        """Return the teacher's features of unmasked z (batch, length): (batch, length, dim)."""
        alpha = torch.ones(len(z), device=z.device)
        out = self.host_denoise(self.teacher.backbone, z, alpha, condition)
        return losses.widen(getattr(out, "logits", out))

    def _log_rewards(self, rewards: Tensor, counts: Tensor) -> None:
        sequences = len(rewards) * (counts.sum(-1) > 1).sum().clamp(min=1)
        spread = rewards - rewards.mean(0)
        for name, x in (("reward", rewards), ("reward_spread", spread.abs())):
            self.log(f"{self.config.algo.name}/{name}", x.sum() / sequences)


def _core(backbone: nn.Module) -> nn.Module:
    """Return the DiT itself, which a Hugging Face model has inside."""
    return getattr(backbone, "backbone", backbone)


class FeatureTeacher(Teacher):
    """The first blocks of the student as it was; their output stands in place of logits.

    block: the last of them, counted from 0. What lies above is neither kept nor saved.
    """

    def __init__(self, compile: bool, block: int):
        super().__init__(compile)
        self.block = block

    def prepare(self, student: nn.Module) -> None:
        super().prepare(student)
        core = _core(self.backbone)
        core.blocks, core.output_layer = core.blocks[: self.block + 1], _First()


class _First(nn.Module):
    """Return the first of its arguments, as an output layer that does nothing."""

    def forward(self, x, *args, **kwargs):
        return x


def reward(real: Tensor, fake: list[Tensor], counts: Tensor, alpha: float) -> Tensor:
    """Return minus the squared MMD of one candidate, but for a constant: (batch,).

    real: features of the data, and fake: those of two or more draws, each (batch, length,
    dim); counts: (batch, length), the n tokens of a sequence that are compared. With
    k(a, b) = exp(-alpha |a - b|^2) it is

        2 mean_{d, i, j} k(real_i, fake^d_j) - mean_{d != e, i != j} k(fake^d_i, fake^e_j),

    and 0 where n < 2. The mean over pairs of real tokens is the same for all candidates.
    """
    weight = counts.to(real.dtype)
    n, pairs = weight.sum(-1), list(itertools.combinations(fake, 2))
    with head.no_autocast(real.device.type):
        across = sum(_kernel_sum(real, one, weight, alpha) for one in fake)
        among = sum(_kernel_sum(*pair, weight, alpha, others=True) for pair in pairs)
    found = 2 * across / (len(fake) * n.square()) - among / (len(pairs) * n * (n - 1))
    return torch.where(n > 1, found, 0.0)


def _kernel_sum(a: Tensor, b: Tensor, weight: Tensor, alpha: float, others=False) -> Tensor:
    """Sum weight_i weight_j k(a_i, b_j) over i and j, or over i != j if `others`: (batch,)."""
    square = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
    k = torch.baddbmm(square, a, b.mT, alpha=-2).clamp_(min=0).mul_(-alpha).exp_()
    if others:
        k.diagonal(dim1=1, dim2=2).zero_()
    return torch.einsum("bi,bij,bj->b", weight, k, weight)


def factors(rewards: Tensor, counts: Tensor, valid: Tensor, draws: int) -> Tensor:
    """Return the factors of -log p in REINFORCE's loss: (batch, length, candidates * draws).

    rewards: (candidates, batch). A candidate's advantage is its reward less the mean of the
    others'. A sequence's loss is a mean over its candidates, their draws and the tokens that
    `counts` (batch, length) marks; it weighs as many tokens as `valid` (batch, length) marks.
    """
    many = len(rewards) * draws
    advantage = (rewards - rewards.mean(0)) * (len(rewards) / (len(rewards) - 1))
    share = valid.sum(-1).to(rewards) / (many * counts.sum(-1).clamp(min=1))
    of_draws = (advantage * share).repeat_interleave(draws, 0)
    return of_draws.T[:, None].expand(-1, counts.shape[1], -1)
