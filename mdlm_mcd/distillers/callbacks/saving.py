"""Save the student of each round, and the run when SIGTERM asks it to leave.

SLURM sends it before it takes a machine back (preemption, the end of the time limit).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.util import Finalize
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ...checkpoints.files import resume_path
from ...curriculum import Curriculum
from ...errors import UnfinishedError
from ..checkpoint_io import LAST, own_last

# Steps from one question to all processes to the next: each waits for the device.
AGREE = 10

_say = rank_zero_only(logging.getLogger(__name__).warning)


class SaveRounds(L.Callback):
    """Write `round-K.ckpt` after the last optimizer step of round K (from 1), and `last.ckpt`.

    A fit that ends without an error before the last round leaves `last.ckpt` and raises
    UnfinishedError. After SIGTERM it is written at the next optimizer step (several processes:
    the next at which they agree), and the process ends with status 0: Lightning alone would
    leave without saving.
    """

    def __init__(self, dirpath: str, curriculum: Curriculum):
        self.dirpath, self.curriculum = dirpath, curriculum
        self.asked = self._leaves = False
        self._last: int | None = None  # the last optimizer step seen

    def setup(self, trainer, module, stage):
        _running.add(self)
        Finalize(None, _end_workers, exitpriority=0)

    def teardown(self, *args, **kwargs):
        _running.discard(self)

    on_exception = teardown

    # As soon as Lightning's handler is in place, which would leave in the middle of a
    # step. When a run ends, Lightning restores the handlers from before its own.

    def on_sanity_check_start(self, trainer, module):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def on_train_start(self, trainer, module):
        self._last = trainer.global_step  # a run resumed at a boundary has its files
        own_last(trainer, self.dirpath)
        left = sorted(path.name for path in Path(self.dirpath).glob("round-*.ckpt"))
        if left and not trainer.global_step:
            _say(
                "%s has %s of an earlier run, which stay until this one writes its own: name "
                "another hydra.run.dir to keep the two apart.",
                self.dirpath,
                ", ".join(left),
            )
        self.on_sanity_check_start(trainer, module)

    def _ask(self, signum, frame):
        self.asked = True

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step == self._last:
            return  # within gradient accumulation
        self._last = step
        if step % self.curriculum.steps_per_round == 0:
            # Whatever the host's interval: by `last.ckpt` a finished run is known as one.
            for name in (f"round-{step // self.curriculum.steps_per_round}.ckpt", LAST):
                trainer.save_checkpoint(os.path.join(self.dirpath, name))
        asked = self.asked
        if trainer.world_size > 1:
            # All processes leave after the same step, whichever were asked.
            if step % max(1, min(AGREE, trainer.log_every_n_steps)):
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and step < trainer.max_steps:
            trainer.save_checkpoint(os.path.join(self.dirpath, LAST))
            self._leaves = True
            _say(
                "SIGTERM: the run stands at step %d of %d and leaves; %s.",
                step,
                trainer.max_steps,
                self._how_to_go_on(module),
            )

    def _how_to_go_on(self, module) -> str:
        named, own = resume_path(module.config), os.path.join(self.dirpath, LAST)
        if named and os.path.realpath(named) == os.path.realpath(own):
            return f"the same command goes on from {own}"
        # By itself it would begin anew, or where it did, which is refused.
        keys = f"resume_from_ckpt=true and checkpointing.resume_ckpt_path={own}"
        return f"the same command goes on with checkpointing.{keys}"

    def _leave(self, *args):
        if self._leaves:
            raise SIGTERMException

    # The step is logged by then, and other callbacks have had their turn.
    on_train_batch_start = on_validation_start = on_train_epoch_end = _leave

    def on_train_end(self, trainer, module):
        if trainer.global_step < self.curriculum.total_steps:
            trainer.save_checkpoint(os.path.join(self.dirpath, LAST))

    def on_fit_end(self, trainer, module):
        # Here, and not at the end of the training, of which there may be none.
        step, curriculum = trainer.global_step, self.curriculum
        if step < curriculum.total_steps:
            again = self._how_to_go_on(module) if step else "the same command begins again"
            raise UnfinishedError(
                f"The run ended at step {step} of {curriculum.total_steps}, in round "
                f"{curriculum.at(step).index + 1} of {curriculum.rounds}, by trainer.max_time, or "
                "by trainer.max_epochs, trainer.limit_train_batches, a callback or data without a "
                f"batch, which have to go: {again}."
            )


# torchrun signals the whole group: a data loader's worker would die, and the step with
# it. The worker ends when its process does.
_running: set[SaveRounds] = set()


def _leave_it_to_the_parent() -> None:
    if _running:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _end_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises where one is killed
    # What an error has left: Python sends it SIGTERM at exit, and would wait for ever.
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_it_to_the_parent)
