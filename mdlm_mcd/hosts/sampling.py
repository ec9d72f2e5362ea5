"""Draw by our samplers in a host: `sampling.predictor=sparse` and the keys with it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

import torch

from .. import laws, sampling
from ..distillers.settings import number
from ..errors import ConfigError
from .specs import HostSpec

log = logging.getLogger(__name__)

SAMPLERS = tuple(sampling.SAMPLERS)
OPTIONS = {key for own in sampling.OPTIONS.values() for key in own} - {"latent"}
MOST_TOKENS = 500_000


def ours(spec: HostSpec) -> list[str]:
    """Return our samplers that a host's `sampling.predictor` may name.

    Duo has an `ancestral` of its own, which it refuses for masked models.
    """
    return [name for name in SAMPLERS if name not in spec.uniform_predictors]


def fitting(spec: HostSpec, parameterization: str) -> tuple[str, list[str]]:
    """Return what is sampled, in a word, and the predictors that fit it."""
    if parameterization == "mean":  # ours are for masks
        return "uniform-state", list(spec.uniform_predictors)
    return "masked", [*ours(spec), *spec.predictors]


def check(how, spec: HostSpec, parameterization: str) -> None:
    """Check the config's section `sampling` of a model.

    Hosts take a name that they do not know for another, or end in an assertion. Raises
    ConfigError.
    """
    check_predictor(how.predictor, *fitting(spec, parameterization))
    if how.predictor in ours(spec):
        _try_options(how)


def check_predictor(name: str, models: str, fits: Sequence[str]) -> None:
    """Raise ConfigError unless the name is among those that fit such models."""
    if name not in fits:
        raise ConfigError(
            f"sampling.predictor={name} is not for {models} models here: choose one of "
            f"{', '.join(fits)}."
        )


def _keywords(how, u_step) -> dict:
    """Return the keys of `sampling` as arguments of `sampling.sample`.

    u_step(): the value of that key, where it is set.
    """
    given = {key: how[key] for key in OPTIONS if key in how}
    if "u_step" in given:
        given["u_step"] = u_step()
    return {
        **given,
        "temperature": how.get("temperature", 1.0),
        "top_p": how.get("p_nucleus", 1.0),
        "schedule": how.get("schedule"),
        "greedy_tail": how.get("greedy_tail", 0),
    }


def _try_options(how) -> None:
    """Draw two tokens, which refuses what a training would find at validation."""
    keywords = _keywords(how, lambda: None if how.u_step == "auto" else _number(how))
    steps, schedule = how.steps, keywords["schedule"]
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
        **keywords,
    )


def no_autocast():
    """Return the context in which a host's `forward` calls its backbone.

    Whatever precision the trainer asks for, the DiT chooses its own inside. (The
    hosts write autocast to float32, which PyTorch takes for none, with a warning.)
    """
    return torch.autocast("cuda", enabled=False)


def draw(model, denoise, count: int, steps: int | None) -> torch.Tensor:
    """Draw (count, length) ids from a host's model; the network is asked by `denoise`.

    model: a student, with the adapter's hooks. Raises ConfigError for keys of
    `sampling` out of range.
    """
    how = model.config.sampling
    steps = steps or how.steps
    # Apple's GPUs have no float64: there the states live on the CPU.
    away = model.device.type == "mps"
    drawn = sampling.sample(
        model.sampler,
        denoise,
        count,
        model.config.model.length,
        steps,
        alpha=lambda t: model.host_alpha(t if away else t.to(model.device)).cpu(),
        mask_index=model.mask_index,
        vocab_size=model.vocab_size,
        dtype=torch.float64 if how.get("use_float64", True) else torch.float32,
        device="cpu" if away else model.device,
        **_keywords(how, lambda: _u_step(model, how, steps)),
    )
    log.info(
        "sampling.predictor=%s: %d network evaluations for %d sequences.",
        model.sampler,
        drawn.evaluations,
        count,
    )
    return drawn.tokens.to(model.device)


def _number(how) -> float | None:
    return number(how, "u_step", "sampling")


def _u_step(model, how, steps: int) -> float | None:
    if how.u_step != "auto":
        return _number(how)
    if how.get("u_law") != "lattice":
        raise ConfigError(
            f"sampling.u_step=auto fits a lattice, and sampling.u_law={how.u_law} "
            "is none: set sampling.u_law=lattice."
        )
    fitted = model.__dict__.setdefault("_fitted_steps", {})
    if steps not in fitted:
        fitted[steps] = laws.fit_step(
            laws.mutual_information(_held_out(model), generator=torch.Generator()),
            model.config.model.length,
            steps,
            schedule=how.get("schedule") or "uniform",
        )
        log.info("sampling.u_step=auto: %.6g for %d steps", fitted[steps], steps)
    return fitted[steps]


def _held_out(model) -> torch.Tensor:
    """Read validation tokens (rows, length) out of the host's own loader."""
    loaders = importlib.import_module(model.host_dataloader)
    _, loader = loaders.get_dataloaders(model.config, model.tokenizer, skip_train=True)
    rows, count = [], 0
    for batch in loader:
        rows.append(batch["input_ids"][:, : model.config.model.length])
        count += rows[-1].numel()
        if count >= MOST_TOKENS:
            break
    return torch.cat(rows)
