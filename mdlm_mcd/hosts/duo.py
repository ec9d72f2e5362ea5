"""Adapter for the Duo layout: s-sahoo/duo and the embedded minihost."""

from __future__ import annotations

import torch

from .. import head
from ..errors import ConfigError
from .common import LightningHost, no_autocast


def denoise(model, backbone, z, alpha_t, labels):
    """`backbone`'s raw logits for z (batch, length), called as `model` calls its own.

    alpha_t: (batch,); labels: (batch,) classes, or None.
    """
    sigma = model._process_sigma(model._sigma_from_alphat(alpha_t[:, None]))
    # Only where there are classes: older backbones do not take the argument.
    classes = {} if labels is None else {"class_cond": labels}
    with no_autocast():
        return backbone(z, sigma, **classes)


class Host(LightningHost):
    """Answers the distillers' `host_` methods with Duo's own."""

    @staticmethod
    def host_setting(config, name):
        return f"algo.{name}", config.algo.get(name)

    def host_inputs(self, batch, uniform):
        x0, _, valid = self._process_model_input(
            batch["input_ids"], batch["attention_mask"]
        )
        labels = batch.get("labels")
        conditional = getattr(self, "class_conditional", False)  # not on ch-1
        if conditional and labels is None:
            raise ConfigError(
                f"data.num_classes={self.num_classes} asks for classes, and the "
                "batches have no `labels`: use data with labels, or set "
                "data.num_classes=null."
            )
        if conditional:
            # As in the host's `nll`: guidance needs a student that also knows the
            # class `num_classes`, "none in particular".
            dropped = uniform("class dropout").to(labels.device)
            dropped = dropped < self.class_cond_dropout
            labels = torch.where(dropped, self.num_classes, labels)
        return x0, valid, labels

    def host_alpha(self, t):
        return self.noise(t)[1]

    def host_denoise(self, backbone, z, alpha_t, condition):
        return denoise(self, backbone, z, alpha_t, condition)

    def host_record(self, loss_sum, num_tokens):
        self.metrics.update_train(loss_sum, 0.0, num_tokens)


def denoiser(model, labels=None):
    """`denoise(z, rows) -> logits` for `mdlm_mcd.sampling`, from a host's model.

    Only for models that are not told the time (MDLM): alpha_t is then irrelevant.
    labels: (batch,) classes for models conditioned on them.
    """

    def on_rows(z, rows):
        # At many steps most sequences open nothing: they are not run at all.
        active = rows.any(-1)
        z, rows = z[active], rows[active]
        classes = None if labels is None else labels[active]
        alpha_t = torch.full((z.shape[0],), 0.5, device=z.device)
        features = head.encode(
            model.backbone, lambda net: denoise(model, net, z, alpha_t, classes)
        )
        return features.logits(features.rows(rows.flatten().nonzero().squeeze(-1)))

    return on_rows
