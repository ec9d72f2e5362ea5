"""Adapter for kuleshov-group/mdlm: `diffusion.Diffusion`, config keys at the root."""

from __future__ import annotations

import torch

from ..head import no_autocast
from ..sampling.denoiser import denoiser
from . import sampling
from .specs import MDLM


def denoise(model, backbone, z, alpha_t, labels=None):
    """Return `backbone`'s raw logits for z, called as `model` calls its own.

    z: (batch, length); alpha_t: (batch,); labels: None, since this host has no classes.
    """
    sigma = model._process_sigma(-torch.log(alpha_t))
    # Whatever the trainer asks for, the DiT chooses its own precision inside. (The hosts write
    # autocast to float32, which PyTorch takes for none, with a warning.)
    with no_autocast("cuda"):
        return backbone(z, sigma)


def student(distiller: type, model: type) -> type:
    """Build a student class: a distiller before MDLM's model, with MDLM's own hooks."""

    class Student(distiller, model):
        @classmethod
        def check_config(cls, config):
            sampling.check(config.sampling, MDLM, distiller.parameterization)
            return super().check_config(config)

        @staticmethod
        def model_setting(config, name):
            return name, config.get(name)

        def host_inputs(self, batch, uniform):
            # Crops the long rows of `data=text8-crop`.
            x0, _, valid = self._maybe_sub_sample(batch["input_ids"], batch["attention_mask"])
            return x0, valid, None

        def host_alpha(self, t):
            return torch.exp(-self.noise(t)[0])

        def host_denoise(self, backbone, z, alpha_t, condition):
            return denoise(self, backbone, z, alpha_t)

        def host_record(self, loss_sum, num_tokens):
            self.train_metrics.update(loss_sum / num_tokens, num_tokens)
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True, sync_dist=True)

        def _sample(self, num_steps=None, eps=1e-5):
            """Draw token ids by `sampling.predictor`, ours or the host's."""
            if self.sampler not in sampling.ours(MDLM):
                return super()._sample(num_steps=num_steps, eps=eps)
            count = self.config.loader.eval_batch_size
            return sampling.draw(self, denoiser(self, denoise), count, num_steps)

    return Student
