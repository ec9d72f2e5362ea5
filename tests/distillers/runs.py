"""Runs of a distiller in the minihost, watched step by step."""

import copy

import lightning as L
import torch
from omegaconf import OmegaConf

from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost


class Watch(L.Callback):
    """Notes what the run did, step by step."""

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


def changed(config, *overrides):
    """A copy with plain keys overridden: to compose takes as long as a short run."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    keys = [override.lstrip("+") for override in overrides]
    return OmegaConf.merge(config, OmegaConf.from_dotlist(keys))


def fit(config, watch=None, ckpt_path=None, model=None):
    L.seed_everything(config.seed)
    tokenizer = dataloader.get_tokenizer(config)
    train_ds, valid_ds = dataloader.get_dataloaders(config, tokenizer)
    model = model or minihost.model_class(config)(config, tokenizer)
    trainer = minihost.make_trainer(config, use_distributed_sampler=False)
    if watch:
        trainer.callbacks.insert(0, watch)
    trainer.fit(model, train_ds, valid_ds, ckpt_path=ckpt_path)
    return model, trainer


def resumed(config, folder, stop, *overrides):
    """A whole run's module and its watch, and those of one resumed from `stop`.

    `config` builds a config from overrides; `stop` names a checkpoint, as in step-8.
    """

    def every(name):
        return config(
            f"checkpointing.save_dir={folder / name}",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
            "callbacks.checkpoint_every_n_steps.save_top_k=-1",
            *overrides,
        )

    watch, again = Watch(), Watch()
    whole, _ = fit(every("whole"), watch)
    path = folder / "whole" / "checkpoints" / f"{stop}.ckpt"
    other, _ = fit(every("resumed"), again, ckpt_path=str(path))
    return whole, watch, other, again


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


def distil(model, x0, valid, step):
    """The parts of one global step's loss, without a trainer."""

    class Trainer:
        accumulate_grad_batches, world_size = 1, 1

    cls, fakes = (type(model), {"trainer": Trainer, "global_step": step, "global_rank": 0})
    for name, value in fakes.items():
        setattr(cls, name, property(lambda self, value=value: value))
    try:
        return model.distil(
            model.curriculum.at(step), x0, valid, None, StepNoise(model, len(x0), 0)
        )
    finally:
        for name in fakes:
            delattr(cls, name)


def assert_same_gradients(model, reference):
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        grad = torch.zeros_like(b) if b.grad is None else b.grad
        torch.testing.assert_close(a.grad, grad, rtol=1e-9, atol=1e-12)
