"""A job: one method at one seed, trained where it has to be, then measured by a sweep."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from hydra.errors import ConfigCompositionException, MissingConfigException

from mdlm_mcd.checkpoints.files import write_json
from mdlm_mcd.commands.sweep import machine, versions
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.errors import ConfigError, DivergenceError, MCDError
from mdlm_mcd.evaluation.candidates import Candidate
from mdlm_mcd.evaluation.plan import Plan, Setting
from mdlm_mcd.evaluation.rows import existing
from mdlm_mcd.evaluation.sweep import Sweep

from . import setting as settings
from . import train
from .methods import ORACLE, TEACHER, UNIFORM, Method
from .sizes import BATCH, SIZES, Part

# A method that ends so is reported; anything else is a bug and ends the benchmark.
STOPS = (MCDError, MissingConfigException, ConfigCompositionException)
Points = tuple[Setting, ...]


@dataclass(frozen=True)
class Job:
    """method at seed, or (method None) the preparation named by `what`."""

    part: str
    what: str
    method: Method | None = None
    seed: int = 1
    needs: tuple[str, ...] = ()

    def path(self, folder: Path, suffix: str) -> Path:
        """Its rows (.jsonl), trained weights (.pt), or why it stopped (.stopped)."""
        if self.method is None:
            return folder / self.part / f"{self.what}{suffix}"
        name = re.sub(r"[^a-z0-9]+", "-", self.what)
        return folder / self.part / f"{name}-seed-{self.seed}{suffix}"

    def points(self, size: Part) -> dict[int | None, Points]:
        """Return where it is measured, by round; None: its last, under all laws of u."""
        method = self.method
        start, end = method.temperatures
        how = {"temperature": start, "temperature_end": end}
        found = [Setting(steps=n, **how) for n in (size.steps if method.main else size.few)]
        if method.teacher != UNIFORM:
            found += [Setting("sparse", "lattice", 1 / n, steps=n, **how) for n in size.lattice]
        rounds = range(1, size.rounds) if method.rounds else ()
        return {None: tuple(found), **{k: (Setting(steps=size.few[-1]),) for k in rounds}}

    def cost(self, size: Part) -> float:
        """Return the expected core seconds."""
        if self.method is None:
            return size.seconds[self.what]
        passes = sum(p.steps for points in self.points(size).values() for p in points)
        each = size.seconds["sample"] + size.seconds["bound"]
        return passes * each + bool(self.method.overrides) * size.seconds["train"]


def plan(methods, parts, size: str, seeds: int | None = None) -> list[Job]:
    """Return every job, preparations first; seeds: at most so many a method."""
    jobs = []
    for name in parts:
        part, setting = SIZES[size][name], settings.SETTINGS[name]
        mine = [m for m in methods if name in m.parts]
        wanted = set(setting.preparations) | {m.teacher for m in mine if m.teacher == UNIFORM}
        jobs += [Job(name, what) for what in (*setting.preparations, UNIFORM) if what in wanted]
        judge = ("judge",) if "judge" in setting.preparations else ()
        for method in mine:
            count = part.seeds[0 if method.main else 1]
            needs = () if method.name == ORACLE else (method.teacher,)
            for seed in range(1, 1 + min(count, seeds or count)):
                jobs.append(Job(name, method.name, method, seed, (*judge, *needs)))
    # Seed by seed, so that what an interruption leaves can be read.
    return sorted(jobs, key=lambda job: (job.method is not None, job.seed))


def run(job: Job, size: str, folder: Path) -> float:
    """Do what is missing of a job, row by row; return its CPU seconds."""
    torch.set_num_threads(1)
    start = time.process_time()
    setting = settings.opened(job.part, size, folder / job.part)
    weights, stopped = job.path(folder, ".pt"), job.path(folder, ".stopped")
    if not (stopped.exists() or is_done(job, setting.part, folder)):
        try:
            weights.parent.mkdir(parents=True, exist_ok=True)
            if job.method is None:
                keep(weights, setting.prepare(job.what))
            else:
                measure(job, setting, students(job, setting, weights), folder)
                weights.unlink(missing_ok=True)
        except STOPS as error:
            write_json(stopped, {"method": job.what, "why": why(error)})
    return time.process_time() - start


def is_done(job: Job, part: Part, folder: Path) -> bool:
    if job.method is None:
        return job.path(folder, ".pt").exists()
    rows = existing(job.path(folder, ".jsonl"))
    found = {(row["round"], Setting(**{k: row[k] for k in asdict(Setting())})) for row in rows}
    return found >= {(k, p) for k, points in job.points(part).items() for p in points}


def why(error: Exception) -> str:
    """Return what the page says of a method that did not run."""
    if isinstance(error, MissingConfigException):
        return f"this version has no {error.missing_cfg_file}"
    return " ".join(str(error).split())


def keep(path: Path, value) -> None:
    """Write all or nothing."""
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)


def overrides(method: Method, part: Part, seed: int) -> list[str]:
    """Return all of a student's training, as on the command line of the minihost."""
    algo, *own = method.overrides
    given = [algo, *part.model, *part.distil, f"seed={seed}"]
    given.append(f"trainer.max_steps={part.total_steps}")
    if algo != "algo=mdlm":
        rounds = 1 if method.one_round else part.rounds
        given.append(f"algo.steps_per_round={part.total_steps // rounds}")
        if not method.one_round:
            given += [f"algo.rounds={rounds}", f"algo.delta0={part.delta0}"]
    return given + own


def students(job: Job, setting, path: Path) -> dict[int, train.Weights]:
    """Return weights by round, of an earlier, interrupted run where it got that far."""
    method, part = job.method, setting.part
    if method.name != ORACLE and not setting.has(method.teacher):
        raise ConfigError(f"there is no {method.teacher} to start from")
    if not method.overrides:
        return {} if method.name == ORACLE else {1: setting.weights(method.teacher)}
    if not path.exists():
        found = train.fit(
            overrides(method, part, job.seed),
            setting.tokenizer,
            setting.rows,
            start=setting.weights(method.teacher),
            oracle=setting.oracle() if method.oracle else None,
            every=None if method.one_round else part.steps_per_round,
        )
        if not all(w.isfinite().all() for w in found[max(found)].values()):
            raise DivergenceError("its weights are not finite.")
        keep(path, found)
    return torch.load(path, weights_only=True)


def noise(seed: int, what: str, *counters: int) -> torch.Generator:
    """The sweep's noise under this benchmark's names; what has the same seed is paired."""
    if what == "sweep":
        steps, index = counters
        return counter_generator(seed, "draw", steps, index * BATCH)
    return counter_generator(seed, "bound" if what == "n-step" else what, *counters)


def candidates(job: Job, setting, found: dict) -> Iterator[tuple[Candidate, Points]]:
    """Each model that a job measures, and at which points."""
    method = job.method
    label = TEACHER if method.group == "tempered teacher" else method.name
    for k, points in job.points(setting.part).items():
        name, weights = f"{label}, round {k}" if k else label, found.get(k or max(found, default=0))
        if method.name == ORACLE:
            model = setting.candidate(name, setting.oracle().denoise)
        elif method.teacher == UNIFORM:
            model = setting.uniform(name, weights)
        else:
            model = setting.masked(name, weights)
        algo = dict(o.split("=", 1) for o in method.overrides).get("algo", "mdlm")
        model.provenance.update(
            method=method.name,
            round=k,
            algo=algo,
            teacher=method.reference if method.overrides else None,
            recipe={"overrides": list(method.overrides)},
            host="minihost",
        )
        yield model, points


def measure(job: Job, setting, found: dict[int, train.Weights], folder: Path) -> None:
    """Sweep over the job's points into its own file."""
    part = setting.part
    for model, points in candidates(job, setting, found):
        Sweep(
            Plan(points, part.samples, BATCH, part.bound_rows, job.seed),
            job.path(folder, ".jsonl"),
            evaluator=lambda model: setting.evaluator,
            held_out=lambda model: setting.held_out,
            facts={"versions": versions(), "machine": machine("cpu")},
            noise=noise,
        ).run([lambda model=model: model])
