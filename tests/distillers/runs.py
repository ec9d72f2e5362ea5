"""Runs of a distiller in the minihost, watched step by step."""

import copy
import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd import hosts
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo as host
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost

# Two rounds of three steps.
SHORT = (
    "algo.rounds=2",
    "algo.steps_per_round=3",
    "trainer.max_steps=6",
    "trainer.num_sanity_val_steps=0",
    "optim.lr=1e-3",
)
# Every step of the run is kept.
EVERY = (
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
    "callbacks.checkpoint_every_n_steps.save_top_k=-1",
)
ALGOS = {name.lower(): name for name in ("MCD", "SDTT", "CD4LM", "DCD", "MMD", "Subset")}


class Watch(L.Callback):
    """Notes what the run did, micro-batch by micro-batch."""

    def __init__(self):
        self.weights, self.teachers, self.rounds, self.losses = [], [], [], []
        self.after_step, self.teacher_modes = [], []

    @staticmethod
    def flat(module):
        return torch.cat([p.detach().flatten().clone() for p in module.parameters()])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.weights.append(self.flat(module.backbone))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        assert torch.equal(self.weights[-1], self.flat(module.backbone))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.after_step.append(self.flat(module.backbone))
        self.teachers.append(self.flat(module.teacher.backbone))
        self.teacher_modes.append(module.teacher.backbone.training)
        self.rounds.append(module.teacher.round)
        self.losses.append(float(outputs["loss"]))


class Stop(Watch):
    """Stops the trainer after `last` optimizer steps."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        trainer.should_stop |= trainer.global_step == self.last


def changed(config, *overrides):
    """A copy with plain keys overridden."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    keys = [override.lstrip("+") for override in overrides]
    return OmegaConf.merge(config, OmegaConf.from_dotlist(keys))


def built(config, cls=None):
    """A model of the config's class in the minihost, or of `cls`."""
    cls = cls or minihost.model_class(config)
    return cls(config, dataloader.get_tokenizer(config))


def student_class(algo):
    return hosts.distiller(ALGOS[algo], specs.DUO, host)


def fit(config, watch=None, ckpt_path=None, model=None):
    L.seed_everything(config.seed)
    model = model or built(config)
    loaders = dataloader.get_dataloaders(config, model.tokenizer)
    trainer = minihost.make_trainer(config, use_distributed_sampler=False)
    if watch:
        trainer.callbacks.insert(0, watch)
    trainer.fit(model, *loaders, ckpt_path=ckpt_path and str(ckpt_path))
    return model, trainer


def logged(folder, key):
    """The rows of a run's metrics.csv in which `key` stands: their numbers, by name."""
    (path,) = Path(folder).glob("lightning_logs/*/metrics.csv")
    rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(path.open())]
    return [row for row in rows if key in row]


def opened(path):
    return torch.load(path, weights_only=True)


def shaken(model, round=0):
    """Copies of student and teacher, away from the start and apart.

    At its start a network is blind to its input, and student and teacher are one.
    """
    for p in model.backbone.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.teacher.snapshot(model.backbone, round)
    with torch.no_grad():
        for p in model.backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return copy.deepcopy(model.backbone), copy.deepcopy(model.teacher.backbone)


def distil(model, x0, valid, step, given=None, place=0):
    """The parts of one global step's loss, without a trainer.

    place: of the first row in the global batch.
    """

    class Trainer:
        accumulate_grad_batches, world_size = 1, 1

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("trainer", Trainer), ("global_step", step), ("global_rank", 0)):
            patch.setattr(type(model), name, property(lambda self, value=value: value))
        round_ = model.curriculum.at(step)
        noise = StepNoise(model, len(x0), 0, given)
        noise.places += place
        return model.distil(round_, x0, valid, None, noise)
