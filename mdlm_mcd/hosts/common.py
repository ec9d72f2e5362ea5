"""What the public hosts have in common."""

from __future__ import annotations

import itertools

import torch

from .rows import Rows


class LightningHost:
    """A `LightningModule` with `backbone`, `noise`, `ema` and fast-forward counters."""

    def ema_parameters(self):
        return itertools.chain(self.backbone.named_parameters(), self.noise.named_parameters())

    def reset_fast_forward(self):
        self.fast_forward_epochs = self.fast_forward_batches = None

    def host_rewind(self, checkpoint, batches):
        if batches:
            loop = checkpoint["loops"]["fit_loop"]["state_dict"]
            for state in loop.get("combined_loader", []):
                # The embedded host's; where real ones stand follows from the counts.
                if "batch" in state:
                    state["batch"] -= batches

    def on_train_start(self):
        self._host_rows = Rows(self.trainer, self.config.seed)
        super().on_train_start()
        self._host_rows.begin()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self._host_rows.begin_epoch()


def no_autocast():
    """How a host's `forward` calls its backbone.

    Whatever precision the trainer asks for, the DiT chooses its own inside. (The
    hosts write autocast to float32, which PyTorch takes for none, with a warning.)
    """
    return torch.autocast("cuda", enabled=False)
