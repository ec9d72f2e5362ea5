"""What every distiller asks of its settings, before a model is built."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from .. import coupling
from ..checkpoints.weights import PROCESSES
from ..curriculum import Curriculum
from ..errors import ConfigError
from .divergence_guard import LossGuard
from .keys import check_keys
from .rng import number
from .strategies import PLACEMENTS
from .validate_run import check_processes, check_whole

INIT_FROM = ("ema", "raw", "scratch")
SNAPSHOTS = ("raw", "ema", "fixed")


def choice(key: str, value, known: Sequence[str], whose: str = "") -> None:
    """Raises ConfigError unless value is one of the known ones."""
    if value not in known:
        raise ConfigError(f"{key}={value} is unknown{whose}: choose one of {', '.join(known)}.")


def check(
    config: DictConfig,
    key: str,
    found: str,
    wanted: str,
    losses: Sequence[str],
    schedule: Sequence[str],
) -> Curriculum:
    """Refuse what cannot work; answers the curriculum the config describes.

    key, found: where the host keeps the parameterization, and its value; wanted: the
    distiller's; losses: the values of algo.loss that it knows; schedule: the numbers
    of `Curriculum` that it reads. Raises ConfigError.
    """
    algo = config.algo
    check_keys(config)
    if found != wanted:
        raise ConfigError(
            f"{key}={found} does not fit algo={algo.name}, which needs "
            f"{PROCESSES[wanted]}: set {key}={wanted}."
        )
    choice("algo.loss", algo.loss, losses, whose=f" to algo={algo.name}")
    choice("algo.init_from", algo.init_from, INIT_FROM)
    choice("algo.snapshot", algo.snapshot, SNAPSHOTS)
    choice("algo.teacher_placement", algo.teacher_placement, PLACEMENTS)
    if algo.snapshot == "ema" and not config.training.ema:
        raise ConfigError(
            "algo.snapshot=ema takes the student's average for a teacher, and "
            "training.ema=0 keeps none: set training.ema, or algo.snapshot=raw."
        )
    least = number(algo, "min_entropy")
    if least is not None and not 0 <= least < math.inf:
        raise ConfigError(
            f"algo.min_entropy={least} must be a number of nats from 0 on, below which "
            "to warn, or null."
        )
    if type(algo.head_chunk) is not int or algo.head_chunk < 1:
        raise ConfigError(
            f"algo.head_chunk={algo.head_chunk} must be at least 1: it is the "
            "number of rows projected onto the vocabulary at a time."
        )
    if "u_law" in algo:
        # A trial draw refuses what no law knows; the global generator is left alone.
        coupling.draw_u(1, 1, algo.u_law, step=number(algo, "u_step"), generator=torch.Generator())
    LossGuard(algo.guard, algo.loss, vocab_size=2)
    numbers = {"delta0": None} | {name: number(algo, name) for name in schedule}
    for name in schedule:
        if numbers[name] is None:
            raise ConfigError(f"algo.{name}=None must be a finite number.")
    check_processes(config)
    check_whole(config)
    return Curriculum(algo.rounds, algo.steps_per_round, **numbers)
