"""Adapter for the Duo layout: s-sahoo/duo and the embedded minihost."""

from __future__ import annotations

import itertools
from types import ModuleType

import torch

from .. import head

# What is called below; a class without them is not this family's MDLM.
_NEEDED = ("_process_sigma", "_sigma_from_alphat", "_get_parameters", "_loss", "nll")


def lacks(algo: ModuleType) -> list[str]:
    """What of the Duo layout a module of models does not offer (empty: it fits)."""
    model = getattr(algo, "MDLM", None)
    if model is None:
        return ["MDLM"]
    return [f"MDLM.{name}" for name in _NEEDED if not hasattr(model, name)]


class DuoHost:
    """Answers the distillers' `host_` methods with Duo's own."""

    def host_alpha(self, t):
        return self.noise(t)[1]

    def host_denoise(self, backbone, z, alpha_t, batch):
        sigma = self._process_sigma(self._sigma_from_alphat(alpha_t[:, None]))
        # As in the host's `forward`, which always calls its own backbone: whatever
        # precision the trainer asks for, the DiT chooses its own inside.
        labels = batch.get("labels")
        # Only where there are classes: older backbones do not take the argument.
        classes = {} if labels is None else {"class_cond": labels}
        with torch.autocast("cuda", enabled=False):
            return backbone(z, sigma, **classes)

    def host_named_parameters(self):
        return itertools.chain(
            self.backbone.named_parameters(), self.noise.named_parameters()
        )

    def host_forget_progress(self):
        self.fast_forward_epochs = self.fast_forward_batches = None

    def host_record(self, loss_sum, num_tokens):
        self.metrics.update_train(loss_sum, 0.0, num_tokens)


def marry(mixin: type, algo: ModuleType) -> type:
    """A student class: the adapter's answers, the mixin's training, the host's rest."""
    return type(
        mixin.__name__,
        (DuoHost, mixin, algo.MDLM),
        # Where pickle finds it again, made for the host that is loaded there.
        {"__doc__": mixin.__doc__, "__module__": __package__},
    )


def denoiser(model, labels=None):
    """`denoise(z, rows) -> logits` for `mdlm_mcd.sampling`, from a host's model.

    Only for models that are not told the time (MDLM): alpha_t is then irrelevant.
    labels: (batch,) classes for models conditioned on them.
    """

    def denoise(z, rows):
        # At many steps most sequences open nothing: they are not run at all.
        active = rows.any(-1)
        z, rows = z[active], rows[active]
        batch = {"labels": None if labels is None else labels[active]}
        alpha_t = torch.full((z.shape[0],), 0.5, device=z.device)
        features = head.encode(
            model.backbone,
            lambda net: DuoHost.host_denoise(model, net, z, alpha_t, batch),
        )
        return features.logits(features.rows(rows.flatten().nonzero().squeeze(-1)))

    return denoise
