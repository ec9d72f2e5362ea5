"""Keep the student of each round, and report a run that ends before its last."""

from __future__ import annotations

import os

import lightning as L

from ...curriculum import Curriculum
from ...errors import UnfinishedError
from ..checkpoint_io import LAST, save_last


class RoundCheckpoints(L.Callback):
    """Write `round-K.ckpt` after the last optimizer step of round K (from 1).

    A fit that ends without an error before the last round leaves `last.ckpt` and
    raises UnfinishedError. SIGTERM, after which a run goes on, is `Preemption`'s.
    """

    def __init__(self, dirpath: str, curriculum: Curriculum):
        self.dirpath, self.curriculum = dirpath, curriculum
        self._last: int | None = None

    def on_train_start(self, trainer, module):
        # A run resumed at a boundary has this file, and under gradient
        # accumulation passes several batches at the same step.
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step != self._last and step % self.curriculum.steps_per_round == 0:
            name = f"round-{step // self.curriculum.steps_per_round}.ckpt"
            trainer.save_checkpoint(os.path.join(self.dirpath, name))
        self._last = step

    def on_train_end(self, trainer, module):
        if trainer.global_step < self.curriculum.total_steps:
            save_last(trainer, self.dirpath)

    def on_fit_end(self, trainer, module):
        # Here, and not at the end of the training, of which there may be none.
        step, curriculum = trainer.global_step, self.curriculum
        if step < curriculum.total_steps:
            last = f"goes on from {os.path.join(self.dirpath, LAST)}"
            raise UnfinishedError(
                f"The run ended at step {step} of {curriculum.total_steps}, in round "
                f"{curriculum.at(step).index + 1} of {curriculum.rounds}, by "
                "trainer.max_time, or by trainer.max_epochs, trainer.limit_train_batches or "
                "a callback, which have to go: the same command "
                f"{last if step else 'begins again'}."
            )
