"""Training in this process: a config composed by Hydra, the host's class, Lightning.

What a method is, its overrides say; what is the same for all of a part (model, data,
optimizer, budget) its `Part` says.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
import lightning as L
import torch
import torch.nn as nn
from omegaconf import DictConfig
from paper.compose import embedded

from mdlm_mcd.distillers.teacher import Teacher
from mdlm_mcd.minihost import main as entry
from mdlm_mcd.minihost import start as first
from mdlm_mcd.minihost.resumable_loader import ResumableLoader

Weights = dict[str, torch.Tensor]

COMMON = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.num_sanity_val_steps=0",
    "trainer.limit_val_batches=0",
    "trainer.log_every_n_steps=1000",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
)


def compose(*overrides: str) -> DictConfig:
    """Return the minihost's config with `overrides`, those of later places winning."""
    return embedded([*COMMON, *overrides])


class Keep(L.Callback):
    """The averaged weights at the end of each `every` steps, and of the run."""

    def __init__(self, every: int):
        self.every, self.kept = every, {}

    def on_train_batch_end(self, trainer, module, *args):
        step = trainer.global_step
        if step and step % self.every == 0:
            self.kept[step // self.every] = averaged(module)


@contextlib.contextmanager
def silence():
    """Without Lightning's advice to users, which hundreds of short runs would repeat."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def averaged(model) -> Weights:
    """Return the backbone's parameters as its EMA has them."""
    names = [name for name, _ in model.backbone.named_parameters()]
    return {n: s.detach().clone() for n, s in zip(names, model.ema.shadow_params, strict=False)}


class FixedTeacher(Teacher):
    """One network, not the student's, that is the teacher of every round."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        super().snapshot(backbone, None)

    def snapshot(self, student, round_index: int) -> None:
        self.round = round_index


def fit(
    overrides: Sequence[str],
    tokenizer,
    rows,
    *,
    start: Weights | None = None,
    oracle: nn.Module | None = None,
    every: int | None = None,
) -> dict[int, Weights]:
    """Train and return averaged weights by round, from 1 (one round: the end).

    overrides: the algo first. rows: the training data, a `Dataset` of the host's batches.
    start: weights to begin from, the same for every method: raw weights, average and first
    teacher. oracle: the teacher in every round instead of the student's snapshots. Raises what
    the run raises: ConfigError, DivergenceError.
    """
    with tempfile.TemporaryDirectory() as folder, silence():
        given = [f"checkpointing.save_dir={folder}", *overrides]
        if start is not None and overrides[0] != "algo=mdlm":
            path = Path(folder, "teacher.pt")
            torch.save({"state_dict": {f"backbone.{k}": v for k, v in start.items()}}, path)
            given += [f"algo.teacher_path={path}", "algo.init_from=raw"]
        config = compose(*given)
        L.seed_everything(config.seed)
        model = entry.model_class(config)(config, tokenizer)
        if start is None:
            first.begin(model, rows)
        elif not hasattr(model, "teacher"):
            load(model, start)
        if oracle is not None:
            model.teacher = FixedTeacher(oracle)
        keep = Keep(every or config.trainer.max_steps)
        loader = ResumableLoader(rows, seed=config.seed, batch_size=config.loader.batch_size)
        trainer = hydra.utils.instantiate(
            config.trainer,
            callbacks=[keep],
            logger=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        trainer.fit(model, loader)
    return keep.kept


def load(model, weights: Weights) -> None:
    """Averaged weights as a model's raw ones, and a new average from there."""
    model.backbone.load_state_dict(weights, strict=False)
    model.ema = type(model.ema)(model._get_parameters(), decay=model.ema.decay)
