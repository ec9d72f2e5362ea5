"""Save soon after SIGTERM, between two steps, and leave; the same command goes on.

One process saves after the step in progress, several when they next agree (`AGREE`).

SLURM sends it before it takes a machine back (preemption, the end of the time limit).
"""

from __future__ import annotations

import logging
import os
import signal
import threading

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..checkpoint_io import save_last

log = logging.getLogger(__name__)

# Steps from one question to all processes to the next: each waits for the device.
AGREE = 10


class Preemption(L.Callback):
    """Write `dirpath/last.ckpt` and end the process with status 0.

    Lightning, left alone, leaves without saving, and in the middle of an accumulation.
    Its handlers of other signals (SLURM's requeueing) are not touched.
    """

    def __init__(self, dirpath: str):
        self.dirpath = dirpath
        self.asked = False
        self._saved = False
        self._last: int | None = None

    def setup(self, trainer, module, stage):
        self.asked = self._saved = False
        _running.add(self)

    def teardown(self, *args, **kwargs):
        _running.discard(self)

    on_exception = teardown

    # As soon as Lightning's handler is in place, which would leave in the middle of a
    # step. When a run ends, Lightning restores the handlers from before its own.

    def on_sanity_check_start(self, trainer, module):
        self._last = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    on_train_start = on_sanity_check_start

    def _ask(self, signum, frame):
        self.asked = True

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step == self._last:
            return  # within gradient accumulation
        self._last = step
        asked = self.asked
        if trainer.world_size > 1:
            # All processes leave after the same step, whichever were asked.
            if step % max(1, min(AGREE, trainer.log_every_n_steps)):
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and step < trainer.max_steps:
            save_last(trainer, self.dirpath)
            self._saved = True
            _say(
                "SIGTERM: the run stands at step %d of %d in %s and leaves; the same "
                "command goes on from there.",
                step,
                trainer.max_steps,
                self.dirpath,
            )

    def _leave(self, *args):
        if self._saved:
            raise SIGTERMException

    # The step is logged by then, and other callbacks have had their turn.
    on_train_batch_start = on_validation_start = on_train_epoch_end = _leave


_say = rank_zero_only(log.warning)

# torchrun signals the whole group: a data loader's worker would die, and the step with
# it. The worker ends when its process does.
_running: set[Preemption] = set()


def _leave_it_to_the_parent() -> None:
    if _running:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_it_to_the_parent)
