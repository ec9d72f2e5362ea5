"""Two rounds of a distillation, with validations: python train.py CONFIG."""

import sys

import lightning as L
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import OmegaConf

from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost


class Stand(CPUAccelerator):
    """Lightning's CPU accelerator, without the check that the device is one."""

    def setup_device(self, device):
        pass


class Waits(L.Callback):
    """Count, in each step, how often the program waits for the device."""

    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.device = type(batch["input_ids"])
        self.before = self.device.waits

    def on_train_batch_end(self, *args):
        self.counts.append(self.device.waits - self.before)


minihost.register_resolvers()
config = OmegaConf.load(sys.argv[1])
L.seed_everything(1, verbose=False)
tokenizer = dataloader.get_tokenizer(config)
train_ds, valid_ds = dataloader.get_dataloaders(config, tokenizer)
model = minihost.model_class(config)(config, tokenizer)
waits = Waits()
trainer = L.Trainer(
    callbacks=[waits],
    strategy=SingleDeviceStrategy(device="gpu:0", accelerator=Stand()),
    max_steps=config.trainer.max_steps,
    logger=False,
    enable_checkpointing=False,
    accumulate_grad_batches=config.trainer.accumulate_grad_batches,
    gradient_clip_val=1.0,
    limit_val_batches=1,
    val_check_interval=2,
    enable_progress_bar=False,
    enable_model_summary=False,
)
# What is written to a file has to be on the CPU first, as of no GPU either.
model.configure_callbacks = lambda: [model.global_batch]
trainer.fit(model, train_ds, valid_ds)
assert trainer.global_step == config.trainer.max_steps
assert next(model.teacher.backbone.parameters()).device.type == "gpu"
print("waits:", waits.counts)
