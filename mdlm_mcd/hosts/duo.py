"""Adapter for Duo's layout: s-sahoo/duo and the embedded minihost."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..head import no_autocast
from ..sampling.denoiser import denoiser as model_denoiser
from . import sampling
from .specs import DUO


def denoise(model, backbone, z, alpha_t, labels):
    """Return `backbone`'s raw logits for z, called as `model` calls its own.

    z: (batch, length); alpha_t: (batch,); labels: (batch,) classes, or None.
    """
    sigma = model._process_sigma(model._sigma_from_alphat(alpha_t[:, None]))
    # Only where there are classes: older backbones do not take the argument.
    classes = {} if labels is None else {"class_cond": labels}
    # Whatever the trainer asks for, the DiT chooses its own precision inside. (The hosts write
    # autocast to float32, which PyTorch takes for none, with a warning.)
    with no_autocast("cuda"):
        return backbone(z, sigma, **classes)


def denoiser(model, labels=None):
    """Return a host's model as a `sampling.Denoise`.

    labels: (batch,) classes for models conditioned on them.
    """
    return model_denoiser(model, denoise, labels)


def student(distiller: type, model: type) -> type:
    """Build a student class: a distiller before a model of Duo, with Duo's own hooks."""

    ours = sampling.ours(DUO, distiller.parameterization)

    class Student(distiller, model):
        @classmethod
        def check_config(cls, config):
            sampling.check(config.sampling, DUO, distiller.parameterization)
            return super().check_config(config)

        def _validate_configuration(self):
            # Hosts accept the names that they know, branch ch-1 nothing but this one.
            named = self.sampler
            self.sampler = "ancestral_cache" if named in ours else named
            super()._validate_configuration()
            self.sampler = named

        @staticmethod
        def model_setting(config, name):
            return f"algo.{name}", config.algo.get(name)

        def host_inputs(self, batch, uniform):
            ids = batch["input_ids"]
            # Where there is none every token counts, as in the host's own training.
            valid = batch.get("attention_mask", torch.ones_like(ids))
            x0, _, valid = self._process_model_input(ids, valid)
            labels = batch.get("labels")
            if getattr(self, "class_conditional", False):  # not on ch-1
                # As in the host's `nll`: guidance needs a student that also knows the
                # class `num_classes`, "none in particular".
                dropped = uniform("class dropout").to(labels.device) < self.class_cond_dropout
                labels = torch.where(dropped, self.num_classes, labels)
            return x0, valid, labels

        def host_alpha(self, t):
            return self.noise(t)[1]

        def host_denoise(self, backbone, z, alpha_t, condition):
            return denoise(self, backbone, z, alpha_t, condition)

        def host_record(self, loss_sum, num_tokens):
            self.metrics.update_train(loss_sum, 0.0, num_tokens)

        def generate_samples(self, num_samples, labels=None, num_steps=None, eps=1e-5):
            """Draw token ids (num_samples, length) by `sampling.predictor`, ours or the host's.

            `sampling.guid_weight` null or 0 draws without a class and 1 with it, as in the host.
            Raises ConfigError for guidance, which only the host's own samplers know.
            """
            # Only where there are classes: older hosts do not take the argument.
            classes = {} if labels is None else {"labels": labels.to(self.device)}
            if self.sampler not in ours:
                return super().generate_samples(
                    num_samples, num_steps=num_steps, eps=eps, **classes
                )
            weight = self.config.sampling.get("guid_weight")
            if classes and weight not in (None, 0, 1):
                raise ConfigError(
                    f"sampling.guid_weight={weight} guides the host's own samplers alone: set "
                    "sampling.predictor=ancestral_cache, or the weight to 1 (classes, no guidance)."
                )
            if classes and not weight:
                classes["labels"] = torch.full_like(classes["labels"], self.num_classes)
            return sampling.draw(self, denoiser(self, **classes), num_samples, num_steps)

    return Student
