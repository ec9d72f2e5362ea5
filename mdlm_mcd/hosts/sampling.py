"""Draw by our samplers in a host: `sampling.predictor=sparse` and the keys with it."""

from __future__ import annotations

import logging

import torch

from .. import sampling
from ..distillers.settings import number
from ..errors import ConfigError
from .specs import HostSpec

log = logging.getLogger(__name__)

OPTIONS = {key for own in sampling.OPTIONS.values() for key in own} - {"latent"}


def ours(spec: HostSpec, parameterization: str = "subs") -> list[str]:
    """Return our samplers that `sampling.predictor` may name: for masked models all.

    Duo has an `ancestral` of its own for uniform-state models alone.
    """
    if parameterization != "subs":
        return []
    return [name for name in sampling.SAMPLERS if name not in spec.predictors["subs"]]


def check(how, spec: HostSpec, parameterization: str) -> None:
    """Check the config's section `sampling` of a model.

    Hosts take a name that they do not know for another, or end in an assertion. Raises
    ConfigError.
    """
    masked = parameterization == "subs"
    mine = ours(spec, parameterization)
    fits = [*mine, *spec.predictors[parameterization]]
    if how.predictor not in fits:
        raise ConfigError(
            f"sampling.predictor={how.predictor} is not for "
            f"{'masked' if masked else 'uniform-state'} models here: choose one of "
            f"{', '.join(fits)}."
        )
    if how.predictor in mine:
        sampling.check(how.predictor, how.steps, **_keywords(how))


def _keywords(how) -> dict:
    """Return the keys of `sampling` as arguments of `sampling.sample`."""
    given = {key: how[key] for key in OPTIONS if key in how}
    if "u_step" in given:
        given["u_step"] = number(how, "u_step", "sampling")
    return {
        **given,
        "temperature": how.get("temperature", 1.0),
        "top_p": how.get("p_nucleus", 1.0),
        "schedule": how.get("schedule"),
        "greedy_tail": how.get("greedy_tail", 0),
    }


def draw(model, denoise, count: int, steps: int | None) -> torch.Tensor:
    """Draw (count, length) ids from a student; the network is asked by `denoise`.

    Raises ConfigError for keys of `sampling` out of range.
    """
    how = model.config.sampling
    # Apple's GPUs have no float64: there the states live on the CPU.
    away = model.device.type == "mps"
    device, prompt = torch.device("cpu") if away else model.device, None
    if getattr(model, "ignore_bos", False):  # the model never saw it masked
        shape = (count, model.config.model.length)
        prompt = torch.full(shape, model.mask_index, device=device)
        prompt[:, 0] = model.tokenizer.bos_token_id
    drawn = sampling.sample(
        model.sampler,
        denoise,
        count,
        model.config.model.length,
        steps or how.steps,
        alpha=lambda t: model.host_alpha(t if away else t.to(model.device)).cpu(),
        mask_index=model.mask_index,
        vocab_size=model.vocab_size,
        dtype=torch.float64 if how.get("use_float64", True) else torch.float32,
        prompt=prompt,
        device=device,
        **_keywords(how),
    )
    log.info(
        "sampling.predictor=%s: %d network evaluations for %d sequences.",
        model.sampler,
        drawn.evaluations,
        count,
    )
    return drawn.tokens.to(model.device)
