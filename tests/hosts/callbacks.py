"""What tests put into a real host's run, by `+callbacks.NAME._target_=callbacks.CLASS`.

In a module of its own: it is imported in the processes of the hosts.
"""

import os
import signal

import lightning as L


class Terminate(L.Callback):
    """SIGTERM to the run itself, before micro-batch `batch` (from 0) of step `step`.

    Only on the way there: a run that goes on from there is not stopped again.
    """

    def __init__(self, step: int, batch: int = 0):
        self.step, self.batch, self.seen = step, batch, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            if self.seen == self.batch:
                os.kill(os.getpid(), signal.SIGTERM)
            self.seen += 1
