"""Our samplers in a host: `sampling.predictor=sparse` and the keys that go with it."""

from __future__ import annotations

import logging
import sys

import torch

from .. import laws, sampling
from ..distillers.settings import number
from ..errors import ConfigError

log = logging.getLogger(__name__)

# `ancestral` is a name of Duo's own, who refuses it for masked models.
OURS = tuple(name for name in sampling.SAMPLERS if name != "ancestral")

OPTIONS = {key for own in sampling.OPTIONS.values() for key in own} - {"latent"}

MOST_TOKENS = 500_000


def check_predictor(name: str, models: str, fits: tuple[str, ...]) -> None:
    """Raises ConfigError unless the name is among those that fit such models."""
    if name not in fits:
        raise ConfigError(
            f"sampling.predictor={name} is not for {models} models here: choose one of "
            f"{', '.join(fits)}."
        )


def _try_options(how) -> None:
    """A draw of two tokens, which refuses what a training would find at validation."""
    options, steps = _options(how), how.steps
    if options.get("u_step") == "auto":
        options["u_step"] = None
    elif "u_step" in options:
        options["u_step"] = number(how, "u_step", "sampling")
    schedule = how.get("schedule")
    if isinstance(steps, int) and (schedule is None or isinstance(schedule, str)):
        steps = min(steps, 2)
    sampling.sample(
        how.predictor,
        lambda z, rows: torch.zeros(int(rows.sum()), 3),
        1,
        2,
        steps,
        alpha=lambda t: 1 - t,
        mask_index=2,
        vocab_size=3,
        generator=torch.Generator(),  # the global one is left alone
        temperature=how.get("temperature", 1.0),
        top_p=how.get("p_nucleus", 1.0),
        schedule=schedule,
        greedy_tail=how.get("greedy_tail", 0),
        **options,
    )


def _options(how) -> dict:
    return {key: how[key] for key in OPTIONS if key in how}


class SamplingHost:
    """For adapters: draws by `sampling.predictor` where that names a sampler of ours.

    Needs the adapter's `host_alpha` and `predictors`, and of the host `config`,
    `device`, `mask_index`, `vocab_size` and `tokenizer`.
    """

    predictors: tuple[str, ...]  # ours and the host's
    uniform_predictors: tuple[str, ...] = ()  # the host's alone: ours are for masks

    @classmethod
    def check_config(cls, config):
        """The distiller's own check, and the predictor's name.

        Hosts take a name that they do not know for another, or end in an assertion.
        """
        name = config.sampling.predictor
        check_predictor(name, *cls.fitting(cls.parameterization))
        if name in OURS:
            _try_options(config.sampling)
        return super().check_config(config)

    @classmethod
    def fitting(cls, parameterization: str) -> tuple[str, tuple[str, ...]]:
        """What is sampled, in a word, and the predictors that fit it."""
        if parameterization == "mean":
            return "uniform-state", cls.uniform_predictors
        return "masked", cls.predictors

    def host_draw(self, denoise, count: int, steps: int | None) -> torch.Tensor:
        """(count, length) ids; the network is asked through `denoise`.

        Raises ConfigError for keys of `sampling` out of range.
        """
        how = self.config.sampling
        options = _options(how)
        if "u_step" in options:
            options["u_step"] = self._u_step(how, steps or how.steps)
        # Apple's GPUs have no float64: there the states live on the CPU.
        away = self.device.type == "mps"
        drawn = sampling.sample(
            self.sampler,
            denoise,
            count,
            self.config.model.length,
            steps or how.steps,
            alpha=lambda t: self.host_alpha(t if away else t.to(self.device)).cpu(),
            mask_index=self.mask_index,
            vocab_size=self.vocab_size,
            dtype=torch.float64 if how.get("use_float64", True) else torch.float32,
            temperature=how.get("temperature", 1.0),
            top_p=how.get("p_nucleus", 1.0),
            schedule=how.get("schedule"),
            greedy_tail=how.get("greedy_tail", 0),
            device="cpu" if away else self.device,
            **options,
        )
        log.info(
            "sampling.predictor=%s: %d network evaluations for %d sequences.",
            self.sampler,
            drawn.evaluations,
            count,
        )
        return drawn.tokens.to(self.device)

    def _u_step(self, how, steps: int) -> float | None:
        if how.u_step != "auto":
            return number(how, "u_step", "sampling")
        if how.get("u_law") != "lattice":
            raise ConfigError(
                f"sampling.u_step=auto fits a lattice, and sampling.u_law={how.u_law} "
                "is none: set sampling.u_law=lattice."
            )
        fitted = self.__dict__.setdefault("_fitted_steps", {})
        if steps not in fitted:
            fitted[steps] = laws.fit_step(
                laws.mutual_information(self._held_out(), generator=torch.Generator()),
                self.config.model.length,
                steps,
                schedule=how.get("schedule") or "uniform",
            )
            log.info("sampling.u_step=auto: %.6g for %d steps", fitted[steps], steps)
        return fitted[steps]

    def _held_out(self) -> torch.Tensor:
        """Validation tokens out of the host's own loader, (rows, length)."""
        host = type(self).__bases__[-1].__module__
        package = host.rpartition(".")[0]
        loaders = sys.modules[f"{package}.dataloader" if package else "dataloader"]
        _, loader = loaders.get_dataloaders(self.config, self.tokenizer, skip_train=True)
        rows, count = [], 0
        for batch in loader:
            rows.append(batch["input_ids"][:, : self.config.model.length])
            count += rows[-1].numel()
            if count >= MOST_TOKENS:
                break
        return torch.cat(rows)
