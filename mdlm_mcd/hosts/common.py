"""What the adapters of all public hosts have in common."""

from __future__ import annotations

import itertools

import torch

from . import sampling
from .rows import Rows
from .specs import HostSpec


class LightningHost:
    """A `LightningModule` with `backbone`, `noise`, `ema` and fast-forward counters."""

    spec: HostSpec
    samplers: tuple[str, ...]  # of ours, those that `sampling.predictor` may name
    host_dataloader: str  # the host's module of loaders

    @classmethod
    def fitting(cls, parameterization: str) -> tuple[str, tuple[str, ...]]:
        """Return what is sampled, in a word, and the predictors that fit it."""
        if parameterization == "mean":  # ours are for masks
            return "uniform-state", cls.spec.uniform_predictors
        return "masked", (*cls.samplers, *cls.spec.predictors)

    @classmethod
    def check_config(cls, config):
        """Check the predictor, and then all that the distiller checks.

        Hosts take a name that they do not know for another, or end in an assertion.
        """
        sampling.check(config.sampling, cls.samplers, *cls.fitting(cls.parameterization))
        return super().check_config(config)

    def ema_parameters(self):
        return itertools.chain(self.backbone.named_parameters(), self.noise.named_parameters())

    def reset_fast_forward(self):
        self.fast_forward_epochs = self.fast_forward_batches = None

    def host_rewind(self, checkpoint, batches):
        # The embedded host's loaders; where real ones stand follows from the counts.
        loop = checkpoint["loops"]["fit_loop"]["state_dict"] if batches else {}
        for state in loop.get("combined_loader", []):
            if "batch" in state:
                state["batch"] -= batches

    def host_draw(self, denoise, count: int, steps: int | None) -> torch.Tensor:
        """Draw (count, length) ids by `sampling.predictor`, one of ours."""
        return sampling.draw(self, denoise, count, steps)

    def on_train_start(self):
        self._host_rows = Rows(self.trainer, self.config.seed)
        super().on_train_start()
        self._host_rows.begin()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self._host_rows.begin_epoch()


def no_autocast():
    """Return the context in which a host's `forward` calls its backbone.

    Whatever precision the trainer asks for, the DiT chooses its own inside. (The
    hosts write autocast to float32, which PyTorch takes for none, with a warning.)
    """
    return torch.autocast("cuda", enabled=False)
