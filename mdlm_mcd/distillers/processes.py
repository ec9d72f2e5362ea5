"""Several processes, and several micro-batches, compute the update of one."""

from __future__ import annotations

import functools

import torch

from .. import head
from ..curriculum import Round
from ..errors import CheckpointError, TeacherError
from . import strategies, validate_run
from .divergence_guard import LossGuard, StepSums, cause
from .sharding import whole
from .teacher import Teacher


class Processes:
    """A step's gradient is that of its whole global batch, whoever computed it.

    For a `LightningModule` with `backbone`, `ema` and `ema_parameters`, before
    the host's class.
    """

    teacher: Teacher
    guard: LossGuard
    _step_sums: torch.Tensor | None = None  # of the step in progress
    _nominal: int = 0  # tokens that a micro-batch is expected to have
    _tokens: torch.Tensor | None = None  # and those that the present one has
    _correction: float | None = None  # of the gradient, known with the last micro-batch

    # How the global batch is split ------------------------------------------------

    @property
    def split(self) -> dict[str, int]:
        """Processes, rows of a micro-batch, micro-batches: their product is a step."""
        return {
            "processes": self.trainer.world_size,
            "rows": self.config.loader.batch_size,
            "micro_batches": self.trainer.accumulate_grad_batches,
        }

    def resplit(self, checkpoint, was: dict[str, int] | None) -> None:
        """Let a run that was split otherwise go on; noise and rows know no split.

        was: the `split` it was written with, of the same global batch.
        """
        now = self.split
        if was is None or was == now:
            return
        # Lightning counts micro-batches, and tells by them where a step ends.
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (batches["total"], batches["current"]):
            uncounted = counts["processed"] - counts["completed"]  # as it is written
            for name, count in counts.items():
                counts[name] = count * now["micro_batches"] // was["micro_batches"]
            counts["completed"] = counts["processed"] - uncounted

    # The teacher of a round -------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._check_same_start()
            strategies.check(self.trainer, self.config)
            if strategies.is_sharded(self.trainer):
                # From here on no process has all of the weights.
                self._start()
                self.teacher.prepare(self.backbone)

    def _check_same_start(self) -> None:
        # Or some wait for ever for the others, who begin at another step.
        found = validate_run.resumes(self.config)
        decide = self.trainer.strategy.reduce_boolean_decision
        if decide(found, all=False) and not decide(found, all=True):
            raise CheckpointError(
                "checkpointing.resume_ckpt_path="
                f"{self.config.checkpointing.resume_ckpt_path} is there for some "
                "processes and not for others: name a checkpointing.save_dir that all "
                "machines share."
            )
        if not found:
            validate_run.check_resume(self.config)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        sharded = strategies.is_sharded(self.trainer)
        if not sharded and self.trainer.ckpt_path is None:
            self._start()
        if sharded or self.teacher.round is not None:
            # As the student was by now: some precisions convert it.
            dtype = next(self.backbone.parameters()).dtype
            self.teacher.to(self.device, dtype)
        else:
            self.teacher.to(self.device)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.config.algo.teacher_placement == "sharded":
            self.teacher.shard(functools.partial(strategies.shard, self.trainer))

    def on_train_batch_start(self, batch, batch_idx):
        # Once a round: micro-batches of a step share it, and validation, which swaps
        # the average in, never gets here.
        index = self.curriculum.at(self.global_step).index
        if self.teacher.round != index:
            with whole(self.trainer.strategy.model):
                self._take_teacher(index)
        return super().on_train_batch_start(batch, batch_idx)

    def _take_teacher(self, index: int) -> None:
        kind = self.config.algo.snapshot
        if kind == "fixed" and self.teacher.round is not None:
            self.teacher.keep(index)
        elif kind == "ema":
            own = [p for _, p in self.ema_parameters()]
            self.ema.store(own)
            self.ema.copy_to(own)
            self.teacher.snapshot(self.backbone, index)
            self.ema.restore(own)
        else:
            self.teacher.snapshot(self.backbone, index)
        placement = self.config.algo.teacher_placement
        if self.trainer.world_size > 1 and placement == "replicated":
            self._check_same_teacher()

    def _check_same_teacher(self) -> None:
        # A checksum is a number below 2^64, and tensors hold signed ones.
        own = torch.tensor(self.teacher.sum - 2**63, device=self.device)
        sums = self.all_gather(own).flatten().tolist()
        if odd := [rank for rank, other in enumerate(sums) if other != sums[0]]:
            raise TeacherError(
                f"Round {self.teacher.round + 1} begins with other weights on process "
                f"{', '.join(map(str, odd))} than on process 0 (checksums differ): a "
                "callback changes them on some processes alone, their gradients are "
                "not averaged, or devices of several kinds round otherwise; take that "
                "out, use strategy=ddp on devices of one kind, and resume from the "
                "last checkpoint."
            )

    # One optimizer step -----------------------------------------------------------

    def _watch(self, stage: Round, parts: head.LossOutput, valid, first: bool, last: bool) -> None:
        """Add up each optimizer step; let the guard see it as a whole."""
        tokens = valid.sum()
        self._nominal = self.config.loader.batch_size * valid.shape[1]
        self._tokens, self._correction = tokens, None
        shares = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.guard.mode == "off" and shares == 1:
            return
        sums = torch.stack(
            [
                torch.as_tensor(x, device=self.device).float()
                for x in (parts.distil, parts.reveal, parts.distil_rows, parts.reveal_rows, tokens)
            ]
        )
        fresh = first or self._step_sums is None
        self._step_sums = sums if fresh else self._step_sums + sums
        if not last:
            return
        sums = self._step_sums
        if self.trainer.world_size > 1:
            # All processes see the same sums, so all of them stop or none does.
            sums = self.all_gather(sums).sum(0)
        step = StepSums(*sums.tolist())
        look = functools.partial(cause, self)
        self.guard.check(stage, self.global_step, step, look)
        if shares > 1:
            self._correction = self._nominal * shares / max(step.tokens, 1.0)

    def backward(self, loss, *args, **kwargs):
        """Weigh this micro-batch's loss by its tokens.

        It is a mean over its own tokens, and Lightning averages over micro-batches and
        processes: with padding, a mean of means. How many tokens the whole step has is
        known at its end, so a common number stands in until then.
        """
        if self.trainer.world_size * self.trainer.accumulate_grad_batches > 1:
            loss = loss * (self._tokens.to(loss.dtype) / self._nominal)
        super().backward(loss, *args, **kwargs)

    def on_after_backward(self):
        super().on_after_backward()
        # Without padding the correction is 1; the norm is taken and clipped after it.
        if self._correction not in (None, 1.0):
            for p in self.parameters():
                if p.grad is not None:
                    p.grad.mul_(self._correction)
        self._correction = None

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        by_norm = gradient_clip_algorithm in (None, "norm")
        if gradient_clip_val and by_norm and strategies.is_sharded(self.trainer):
            # Each process has a part of the norm, and Lightning refuses.
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
