"""What tests put into a real host's run, by `+callbacks.NAME._target_=callbacks.CLASS`.

In a module of its own: it is imported in the processes of the hosts.
"""

import lightning as L
import torch


class Ends(L.Callback):
    """The weights that each process ends with, in `rank-RANK.pt`."""

    def on_train_end(self, trainer, module):
        torch.save(module.state_dict(), f"rank-{trainer.global_rank}.pt")
