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
strategy = SingleDeviceStrategy(device="gpu:0", accelerator=Stand())
how = {key: config.trainer[key] for key in ("max_steps", "accumulate_grad_batches")}
how |= dict(gradient_clip_val=1.0, limit_val_batches=1, val_check_interval=2, logger=False)
how |= {f"enable_{x}": False for x in ("checkpointing", "progress_bar", "model_summary")}
trainer = L.Trainer(callbacks=[waits], strategy=strategy, **how)
# What is written to a file has to be on the CPU first, as of no GPU either.
model.configure_callbacks = lambda: [model.global_batch]
trainer.fit(model, train_ds, valid_ds)
assert trainer.global_step == config.trainer.max_steps
assert next(model.teacher.backbone.parameters()).device.type == "gpu"
print("waits:", waits.counts)
