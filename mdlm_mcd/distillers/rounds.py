"""Keeps the student of each round."""

from __future__ import annotations

import os

import lightning as L


class RoundCheckpoints(L.Callback):
    """Writes `round-K.ckpt` after the last optimizer step of round K (from 1)."""

    def __init__(self, dirpath: str, steps_per_round: int):
        self.dirpath, self.steps_per_round = dirpath, steps_per_round
        self._last: int | None = None

    def on_train_start(self, trainer, module):
        # A run resumed at a boundary has this file, and under gradient
        # accumulation passes several batches at the same step.
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step == self._last:
            return
        self._last = step
        if step % self.steps_per_round == 0:
            name = f"round-{step // self.steps_per_round}.ckpt"
            trainer.save_checkpoint(os.path.join(self.dirpath, name))
