"""Check a distiller's settings before a model is built, and its trainer."""

from __future__ import annotations

import math
from numbers import Real

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import DictConfig

from .. import coupling
from ..checkpoints import identity
from ..checkpoints.weights import PROCESSES
from ..curriculum import Curriculum
from ..errors import ConfigError, require
from ..settings import groups

# Strategies whose weights are never whole where a teacher could be taken from them.
REFUSED = ("DeepSpeedStrategy", "ModelParallelStrategy")


def number(
    config: DictConfig, key: str, group: str = "algo", required: bool = False
) -> float | None:
    """Return config[key], where the command line may also give a fraction like 1/512.

    Raises ConfigError for anything that is no number, and for None if `required`.
    """
    given = config[key]
    value = identity.number(given)
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real or (value is None and not required)):
        raise ConfigError(f"{group}.{key}={given} is no number: write it like 0.05 or 1/20.")
    return value


def check(config: DictConfig, distiller: type) -> Curriculum:
    """Refuse what cannot work; return the curriculum that the config describes.

    distiller: a `base.Distiller`. Raises ConfigError.
    """
    algo = config.algo
    check_keys(config)
    parameterization, found = distiller.model_setting(config, "parameterization")
    for key, value, known in (
        ("algo.loss", algo.loss, distiller.loss_kinds),
        ("algo.init_from", algo.init_from, ("ema", "raw", "scratch")),
        ("algo.snapshot", algo.snapshot, ("raw", "ema", "fixed")),
        ("algo.teacher_placement", algo.teacher_placement, ("replicated", "sharded")),
        # YAML 1.1 reads a bare `off` as false.
        ("algo.guard", algo.guard or "off", ("stop", "warn", "off")),
    ):
        if value not in known:
            raise ConfigError(
                f"{key}={value} is unknown to algo={algo.name}: choose one of {', '.join(known)}."
            )
    if found != (wanted := distiller.parameterization):
        raise ConfigError(
            f"{parameterization}={found} does not fit algo={algo.name}, which needs "
            f"{PROCESSES[wanted]}: set {parameterization}={wanted}."
        )
    if algo.snapshot == "ema" and not config.training.ema:
        raise ConfigError(
            "algo.snapshot=ema takes the student's average for a teacher, and "
            "training.ema=0 keeps none: set training.ema, or algo.snapshot=raw."
        )
    for key, least in distiller.least.items():
        fine = type(algo[key]) is int and algo[key] >= least  # true is an int, too
        require(fine, f"algo.{key}", algo[key], f"a whole number of at least {least}")
    for key, least in distiller.above.items():
        value = number(algo, key, required=True)
        require(least < value < math.inf, f"algo.{key}", value, f"a finite number above {least}")
    number(algo, "min_entropy")
    if "coupling" in algo:
        coupling.check_coupling(algo.coupling)
    if "u_law" in algo:
        # A trial draw refuses what no law knows; the global generator is left alone.
        coupling.draw_u(1, 1, algo.u_law, step=number(algo, "u_step"), generator=torch.Generator())
    schedule = {"delta0": None, "tau0": 1.0, "tau_step": 0.0}  # of a method without them
    schedule |= {name: number(algo, name, required=True) for name in distiller.schedule}
    return Curriculum(algo.rounds, algo.steps_per_round, **schedule)


@torch.no_grad()
def check_schedule(alpha: coupling.Alpha, noise_type: str, algo_name: str) -> None:
    """Raise ConfigError unless alpha_t falls all the way from about 1 to about 0."""
    alpha_t = alpha(torch.linspace(0, 1, 65, dtype=torch.float64)).double()
    if not (alpha_t[0] >= 0.9 and alpha_t[-1] <= 0.1 and (alpha_t.diff() < 0).all()):
        raise ConfigError(
            f"noise.type={noise_type} keeps a token visible with a chance of {alpha_t[0]:.3g} at "
            f"t=0 and {alpha_t[-1]:.3g} at t=1, but algo={algo_name} needs it to fall from about "
            "1 to about 0, without a rise between: use the teacher's, such as log-linear."
        )


def check_keys(config: DictConfig) -> None:
    """Raise ConfigError for keys of `algo` that neither we nor the host read.

    Hydra takes them with a plus, or in a file. Of `sampling`, which is the host's, only what
    looks like a key of ours is refused.
    """
    groups.check_groups(config)
    algo, sampling = config.algo, config.get("sampling", {})
    target = algo.get("_target_")
    own = [f for f in groups.our_files("algo") if groups.read(f).algo._target_ == target]
    for section, given, files in (
        # What another class reads is not known here.
        (
            "algo",
            algo if own else {},
            [*own, *groups.our_files("distiller"), *groups.our_files("host*")],
        ),
        ("sampling", sampling, groups.our_files("sampler")),
    ):
        ours = groups.of_files(files, section)
        for key in sorted(set(given) - ours - _of_host(section)):
            meant = groups.nearest(key, ours)
            if meant or (section == "algo" and not key.startswith("_")):
                remedy = f"did you mean {section}.{meant}?" if meant else "take it out."
                raise ConfigError(
                    f"{section}.{key}={given._get_node(key)} is read neither by algo={algo.name} "
                    f"nor by the host: {remedy}"
                )


def _of_host(group: str) -> set[str]:
    """Return keys of a group in the files of the application that is running.

    Not in the one chosen, which may be the user's and have the typo.
    """
    folders = groups.main_folders()
    chosen = HydraConfig.get().runtime.choices.get(group) if folders else None
    named = [p for f in folders for p in f.glob(f"{group}/*.yaml") if p.stem != chosen]
    plain = {key for path in named for key in groups.keys_of(groups.read(path))}
    whole = [p for f in folders for p in f.glob("config.yaml")]
    return plain | groups.of_files([*named, *whole], group)


def check_trainer(trainer, config: DictConfig) -> None:
    """Raise ConfigError for a trainer with which a distillation would go wrong."""
    names = {cls.__name__ for cls in type(trainer.strategy).__mro__}
    sharded = isinstance(trainer.strategy, FSDPStrategy)
    part = config.strategy.get("state_dict_type", "full")
    wanted, each = config.loader.global_batch_size, config.loader.batch_size
    micros = trainer.accumulate_grad_batches
    rows = each * trainer.world_size * micros
    for wrong, sentence in (
        (
            not names.isdisjoint(REFUSED),
            f"strategy={type(trainer.strategy).__name__} shards the weights in a way that algo="
            f"{config.algo.name} cannot take a teacher from: use strategy=ddp or strategy=fsdp.",
        ),
        (
            not sharded and config.algo.teacher_placement == "sharded",
            "algo.teacher_placement=sharded spreads the teacher as strategy=fsdp does the "
            "student: set strategy=fsdp, or algo.teacher_placement=replicated.",
        ),
        (
            sharded and part != "full",
            f"strategy.state_dict_type={part} writes a checkpoint part by part over the one "
            "before it, and a kill in between would damage both: leave it out.",
        ),
        (
            sharded and config.training.ema,
            f"training.ema={config.training.ema} averages whole weights, and strategy=fsdp "
            "shards them: set training.ema=0, or strategy=ddp.",
        ),
        (
            sharded and config.eval.get("generate_samples"),
            "eval.generate_samples=true draws from whole weights, and strategy=fsdp shards "
            "them: set eval.generate_samples=false, or strategy=ddp.",
        ),
        (
            rows != wanted,  # the hosts round up: with 8 rows in batches of 3 they train on 9
            f"loader.global_batch_size={wanted} is not what a step would see: "
            f"loader.batch_size={each} on {trainer.world_size} process(es), accumulated "
            f"{micros} time(s), makes {rows}; set loader.global_batch_size={rows}, or "
            "sizes that divide it.",
        ),
    ):
        if wrong:
            raise ConfigError(sentence)
