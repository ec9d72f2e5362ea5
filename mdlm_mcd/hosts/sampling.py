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


def ours(spec: HostSpec) -> list[str]:
    """Return our samplers that a host's `sampling.predictor` may name.

    Duo has an `ancestral` of its own, which it refuses for masked models.
    """
    return [name for name in sampling.SAMPLERS if name not in spec.predictors["mean"]]


def check(how, spec: HostSpec, parameterization: str) -> None:
    """Check the config's section `sampling` of a model.

    Hosts take a name that they do not know for another, or end in an assertion. Raises
    ConfigError.
    """
    masked = parameterization == "subs"  # ours are for masks
    mine = ours(spec) if masked else []
    fits = [*mine, *spec.predictors[parameterization]]
    if how.predictor not in fits:
        raise ConfigError(
            f"sampling.predictor={how.predictor} is not for "
            f"{'masked' if masked else 'uniform-state'} models here: choose one of "
            f"{', '.join(fits)}."
        )
    if how.predictor in mine:
        _try_options(how)


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


def _try_options(how) -> None:
    """Draw two tokens, which refuses what a training would find at validation."""
    keywords = _keywords(how)
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
    # Apple's GPUs have no float64: there the states live on the CPU.
    away = model.device.type == "mps"
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
        device="cpu" if away else model.device,
        **_keywords(how),
    )
    log.info(
        "sampling.predictor=%s: %d network evaluations for %d sequences.",
        model.sampler,
        drawn.evaluations,
        count,
    )
    return drawn.tokens.to(model.device)
