"""Keep the student of each round, and report a run that ends before its last."""

from __future__ import annotations

import os

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from omegaconf import DictConfig

from ...curriculum import Curriculum
from ...errors import CheckpointError, ConfigError, UnfinishedError
from ..checkpoint_io import LAST, save_last


class RoundCheckpoints(L.Callback):
    """Write `round-K.ckpt` after the last optimizer step of round K (from 1).

    A fit that ends without an error before the last round leaves `last.ckpt` and
    raises UnfinishedError. SIGTERM, after which a run goes on, is `Preemption`'s.
    """

    def __init__(self, dirpath: str, curriculum: Curriculum):
        self.dirpath, self.curriculum = dirpath, curriculum
        self._last: int | None = None
        self._written: list[str] = []

    def on_train_start(self, trainer, module):
        # A run resumed at a boundary has this file, and under gradient
        # accumulation passes several batches at the same step.
        self._last = trainer.global_step
        self._written = []
        if trainer.max_epochs != -1:
            self._check_epochs(trainer, module.config.trainer)

    def _check_epochs(self, trainer, config: DictConfig) -> None:
        steps, curriculum = trainer.estimated_stepping_batches, self.curriculum
        if steps < curriculum.total_steps:
            raise ConfigError(
                f"trainer.max_epochs={trainer.max_epochs} (trainer.limit_train_batches="
                f"{config.get('limit_train_batches')}) ends the run after {steps} of "
                f"the algo.rounds={curriculum.rounds} * algo.steps_per_round="
                f"{curriculum.steps_per_round} steps: leave trainer.max_epochs out."
            )

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step == self._last:
            return
        self._last = step
        if step % self.curriculum.steps_per_round == 0:
            name = f"round-{step // self.curriculum.steps_per_round}.ckpt"
            path = os.path.join(self.dirpath, name)
            trainer.save_checkpoint(path)
            self._written.append(path)

    def on_train_end(self, trainer, module):
        if trainer.global_step < self.curriculum.total_steps:
            save_last(trainer, self.dirpath)

    def on_fit_end(self, trainer, module):
        # Here, and not at the end of the training, of which there may be none.
        step, curriculum = trainer.global_step, self.curriculum
        if step < curriculum.total_steps:
            setting, without = _ended_by(trainer, module.config.trainer)
            index = curriculum.at(step).index
            last = f"goes on from {os.path.join(self.dirpath, LAST)}"
            raise UnfinishedError(
                f"The run ended at step {step} of {curriculum.total_steps}, in round "
                f"{index + 1} of {curriculum.rounds}, by {setting}: the same command "
                f"{without}{last if step else 'begins again'}."
            )
        for path in self._written:
            if trainer.is_global_zero and "://" not in path and not os.path.exists(path):
                raise CheckpointError(
                    f"checkpointing.save_dir: {path} was written by this run and is "
                    "gone: distil again from a checkpoint of before that round, or "
                    "take what moves or removes such files out of the run."
                )


def _ended_by(trainer, config: DictConfig) -> tuple[str, str]:
    """Return what ended a fit before its last step, and how to go on."""
    loop, stops = trainer.fit_loop, trainer.should_stop
    if any(isinstance(c, Timer) and _is_over(c) for c in trainer.callbacks):
        time = config.get("max_time")  # of a slice: the next one goes on as it is
        return f"trainer.max_time={time}" if time else "a Timer callback", ""
    if stops and any(isinstance(c, EarlyStopping) for c in trainer.callbacks):
        return "an EarlyStopping callback", "without it "
    if stops:
        return "a callback that sets trainer.should_stop", "without it "
    if trainer.limit_train_batches == 0:
        return "trainer.limit_train_batches=0", "without it "
    if loop.max_epochs not in (None, -1) and (
        loop.epoch_progress.current.processed >= loop.max_epochs
    ):
        key = "trainer.max_epochs"
        return f"{key}={loop.max_epochs}", f"without {key} "
    return "data without a batch", "with other data "


def _is_over(timer: Timer) -> bool:
    left = timer.time_remaining()
    return left is not None and left <= 0
