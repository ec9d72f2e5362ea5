"""CD4LM's consistency distillation (arXiv 2601.02236) as a Lightning mixin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import coupling, head
from ..curriculum import Round
from .base import Distiller
from .rng import StepNoise

CEILING = 5.0  # nats; beyond it a term of the loss has no gradient


class CD4LM(Distiller):
    """Distil a frozen teacher, which sees a superset of z_t, and the truth, by exact counts.

    lambda T^2 KL(teacher || student) + (1 - lambda) CE, both terms means over all tokens that
    are masked for the student, and both of raw logits: without SUBS, at the tokens that the
    teacher sees too.
    """

    loss_kinds = ("kl_soft",)
    schedule = ("tau0", "tau_step")

    def distil(self, round_: Round, x0, valid, condition, noise: StepNoise) -> head.LossOutput:
        # The shares of masked tokens: r_t ~ U(0.4, 0.9), r_s = r_t U(0.3, 0.7) in [0.1, 0.6].
        share_t = 0.4 + 0.5 * noise.uniform("share")
        share_s = share_t * (0.3 + 0.4 * noise.uniform("share of the teacher"))
        share_s = share_s.clamp(0.1, 0.6)
        u = noise.u(x0.shape[1])
        pair = coupling.couple_counts(x0, u, valid, share_t, share_s, self.mask_index)
        student = self.encode(self.backbone, pair.z_t, 1 - share_t, condition)
        with torch.no_grad():
            teacher = self.encode(self.teacher.backbone, pair.z_s, 1 - share_s, condition)
        rows = pair.masked_t
        kl, ce = (
            self.supervise(round_, student, teacher, x0, rows, rows, kind=kind, subs=False)
            for kind in (self.config.algo.loss, "ce")
        )
        n = max(1, kl.distil_rows)
        done = (self.global_step - round_.first_step) / self.curriculum.steps_per_round
        # lambda: 0.9 for the first tenth of the training, then by a cosine to 0.5.
        weight = 0.7 + 0.2 * math.cos(math.pi * max(0.0, done - 0.1) / 0.9)
        terms = (weight, kl), (1 - weight, ce)
        kl_sum, ce_sum = (w * n * (x.loss / n).clamp(0, CEILING) for w, x in terms)
        return kl._replace(
            loss=kl_sum + ce_sum,
            per_token=sum(w * x.per_token for w, x in terms),
            distil=kl_sum.detach(),
            reveal=ce_sum.detach(),
        )

    def count_tokens(self, valid: Tensor, parts: head.LossOutput) -> Tensor:
        """Return the number of tokens that are masked for the student."""
        return valid.new_full((), parts.distil_rows, dtype=torch.int64)
