"""Check that a host's loaders give batches, of ids that fit the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import lightning as L

from ...errors import ConfigError
from ...models import vocabulary


def _named(module, split: str) -> str:
    return f"data.{split}={module.config.data.get(split)}"


def check_ids(module, batch) -> None:
    """Raise ConfigError for an id in a batch that the module's model does not read.

    Called while the batch is on the CPU: there it waits for no GPU.
    """
    if isinstance(batch, Mapping) and "input_ids" in batch:
        trainer = module.trainer
        validates = trainer.validating or trainer.sanity_checking
        vocabulary.check_ids(
            batch["input_ids"],
            module.vocab_size,
            module.mask_index if module.parameterization == "subs" else None,
            _named(module, "valid" if validates else "train"),
            module.tokenizer,
            batch.get("attention_mask"),
        )


class CountBatches(L.Callback):
    """End a run whose loaders hand out no batch.

    Lightning would begin one epoch after another, or validate to nan.
    """

    def __init__(self):
        self.batches: Counter[str] = Counter()
        self.ended: set[str] = set()

    def on_train_batch_start(self, *args):
        self.batches["train"] += 1

    def on_validation_batch_start(self, *args):
        self.batches["valid"] += 1

    def on_train_epoch_end(self, trainer, module):
        self._end(trainer, module, "train")

    def on_validation_epoch_end(self, trainer, module):
        self._end(trainer, module, "valid")

    def on_fit_end(self, trainer, module):
        if trainer.fit_loop.max_batches == 0:  # of a loader that says so
            self._end(trainer, module, "train")

    def _end(self, trainer, module, split: str) -> None:
        # The epoch that a run goes on in may have no batch left.
        restored = trainer.ckpt_path is not None and split not in self.ended
        self.ended.add(split)
        if not self.batches.pop(split, 0) and not restored:
            raise ConfigError(
                f"{_named(module, split)} gives not one batch: give more text, or take "
                "a smaller model.length or batch."
            )
