"""Sample by pure functions of a denoiser, with a callback; no trainer, no config.

`denoise(z, rows) -> logits` is all a sampler asks of a model (`Denoise`); a
time-conditioned one also gets the alpha_t of each step. docs/samplers.md says which
sampler does what, at what cost, and when it fails.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..coupling import Alpha
from ..errors import WHOLE, ConfigError, border, require, require_one_of
from .chain import (
    Chain,
    Denoise,
    Sample,
    Temperature,
    categorical,
    levels_of,
    probabilities,
    temperature_path,
    warn_of_float32,
)
from .latent import Latent
from .samplers import ancestral, confidence, first_hitting, locked, sparse

__all__ = [
    "OPTIONS",
    "SAMPLERS",
    "Denoise",
    "Latent",
    "Sample",
    "Temperature",
    "ancestral",
    "categorical",
    "check",
    "confidence",
    "first_hitting",
    "locked",
    "parse",
    "probabilities",
    "sample",
    "sparse",
]

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (ancestral, sparse, first_hitting, locked, confidence)
}

OPTIONS = {
    name: {p.name: p.default for p in list(inspect.signature(f).parameters.values())[2:]}
    for name, f in SAMPLERS.items()
}
"""Each sampler's own options and their defaults."""


@torch.no_grad()
def sample(
    name: str,
    denoise: Denoise,
    batch: int,
    length: int,
    steps: int | None,
    *,
    alpha: Alpha,
    mask_index: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    temperature: Temperature = 1.0,
    top_p: float = 1.0,
    callback: Callable[[int, Tensor], None] | None = None,
    schedule: str | Sequence[float] | None = None,
    greedy_tail: int = 0,
    prompt: Tensor | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Sample:
    """Generate (batch, length) tokens from all masks in `steps` steps.

    steps: None only for `first_hitting`, which has no steps and ignores a number.
    alpha: the signal schedule; a step's share of the tokens is what alpha gains in one
        of `steps` equal steps of time. What is left opens at the last step.
    schedule: the shares instead: `uniform`, `cosine`, or a list (`laws.levels`).
    generator: also decides the device, where neither `device` nor a prompt does.
    dtype: precision of the draws. float32 draws as the hosts did and reproduces their
        figures with `ancestral`, whose races the mask takes part in; it acts like a
        lower temperature, and a warning says so.
    temperature: a number, (start, end) along the trajectory, or a function of the
        fraction of tokens open. top_p: mass of the nucleus.
    greedy_tail: the last so many steps (`first_hitting`: tokens) take the most likely token.
    prompt: (batch, length) ids; given tokens stay, those at `mask_index` are filled.
    callback: called with (step, z) after each step, until all tokens are open.
    options: the sampler's own (`OPTIONS`). Another sampler's are ignored at their defaults.

    A step that opens nothing costs no evaluation. Raises ConfigError for an unknown sampler or
    option, or settings out of range.
    """
    require_one_of(SAMPLERS, "sampler", name)
    if steps is not None or name != "first_hitting":
        require(isinstance(steps, Integral) and steps >= 1, "steps", steps, WHOLE)
    require(isinstance(top_p, Real) and 0 < top_p <= 1, "top_p", top_p, "within (0, 1]")
    whole = isinstance(greedy_tail, Integral) and greedy_tail >= 0
    require(whole, "greedy_tail", greedy_tail, "a whole number of at least 0")
    dtypes = (torch.float64, torch.float32)
    require(dtype in dtypes, "dtype", dtype, "torch.float64, or float32 for the hosts' figures")
    inside = 0 <= mask_index < vocab_size
    require(inside, "mask_index", mask_index, f"one of the model's {vocab_size} tokens")
    if dtype == torch.float32:
        warn_of_float32()
    if device is None and prompt is None and generator is not None:
        device = generator.device
    levels, heat = levels_of(alpha, steps or 1, schedule), temperature_path(temperature)
    how = (generator, dtype, top_p, greedy_tail, vocab_size, callback)
    chain = Chain(denoise, alpha, levels, mask_index, heat, *how)
    z = _start(prompt, (batch, length), mask_index, vocab_size, device)
    tokens = SAMPLERS[name](chain, z, **_own(name, options))
    return Sample(tokens, chain.evaluations)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Read a sampler and its options: `confidence:threshold=0.9:score=raw`."""
    name, *pairs = text.split(":")
    options: dict[str, Any] = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value  # a word
    return name, options


def check(name: str, steps: int | None, **settings: Any) -> None:
    """Raise ConfigError for what `sample` would refuse, by drawing two tokens of two kinds."""
    given = ", ".join(f"{key}={value}" for key, value in settings.items())
    with border(f"sampler={name} cannot draw with {given}", "give a value that it can take"):
        sample(
            name,
            lambda z, rows: torch.zeros(int(rows.sum()), 3),
            1,
            2,
            steps,
            alpha=lambda t: 1 - t,
            mask_index=2,
            vocab_size=3,
            generator=torch.Generator(),  # the global one is left alone
            **settings,
        )


def _own(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the sampler's own options; refuse another's, unless at its default."""
    own = OPTIONS[name]
    everyone = {key: default for theirs in OPTIONS.values() for key, default in theirs.items()}
    for key, value in options.items():
        require_one_of(everyone, "option", key)
        if key not in own and value != everyone[key]:
            fits = ", ".join(n for n, theirs in OPTIONS.items() if key in theirs)
            raise ConfigError(
                f"{key}={value} is not supported with sampler={name}: leave it out, or use {fits}."
            )
    return {key: value for key, value in options.items() if key in own}


def _start(
    prompt: Tensor | None,
    shape: tuple[int, int],
    mask_index: int,
    vocab_size: int,
    device: torch.device | str | None,
) -> Tensor:
    """Return the state before the first step: the prompt, or all masks."""
    if prompt is None:
        return torch.full(shape, mask_index, device=device)
    if prompt.shape != shape or prompt.is_floating_point():
        raise ConfigError(
            f"prompt of shape {tuple(prompt.shape)} and {prompt.dtype} does not fit: "
            f"give ids of shape {shape}, with mask_index={mask_index} where tokens are "
            "to be filled in."
        )
    if prompt.numel() and not 0 <= prompt.min() <= prompt.max() < vocab_size:
        raise ConfigError(
            f"prompt holds ids from {prompt.min()} to {prompt.max()}, not all of them "
            f"among the {vocab_size} tokens of the model."
        )
    return prompt.to(device=device, dtype=torch.long, copy=True)
