"""Adapter for kuleshov-group/mdlm: `diffusion.Diffusion`, config keys at the root."""

from __future__ import annotations

import torch

from .common import LightningHost, no_autocast


class Host(LightningHost):
    """Answers the distillers' `host_` methods with MDLM's own."""

    @staticmethod
    def host_setting(config, name):
        return name, config.get(name)

    def host_inputs(self, batch, uniform):
        # Crops the long rows of `data=text8-crop`.
        x0, _, valid = self._maybe_sub_sample(
            batch["input_ids"], batch["attention_mask"]
        )
        return x0, valid, None

    def host_alpha(self, t):
        sigma = self.noise(t)[0]
        return torch.exp(-sigma)

    def host_denoise(self, backbone, z, alpha_t, condition):
        sigma = self._process_sigma(-torch.log(alpha_t))
        with no_autocast():
            return backbone(z, sigma)

    def host_record(self, loss_sum, num_tokens):
        self.train_metrics.update(loss_sum / num_tokens, num_tokens)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True, sync_dist=True)
