"""Runs of a distiller in the minihost, watched step by step."""

import lightning as L
import torch

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
