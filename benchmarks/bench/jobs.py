"""A job: one method at one seed, trained where it has to be, then measured by a sweep."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hydra.errors import ConfigCompositionException, MissingConfigException

from mdlm_mcd.checkpoints.files import write_json
from mdlm_mcd.commands.sweep import machine, versions
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.errors import DivergenceError, MCDError
from mdlm_mcd.evaluation.plan import Plan, Setting
from mdlm_mcd.evaluation.sweep import Sweep

from . import setting as settings
from . import train
from .methods import ORACLE, TEACHER, UNIFORM, Method
from .sizes import BATCH, SIZES, Part

# A method that ends so is reported; anything else is a bug and ends the benchmark.
STOPS = (MCDError, MissingConfigException, ConfigCompositionException)


@dataclass(frozen=True)
class Job:
    """method at seed, or (method None) the preparation named by `what`."""

    part: str
    what: str
    method: Method | None = None
    seed: int = 1

    def path(self, folder: Path, suffix: str) -> Path:
        """Return the file of its rows (.jsonl), weights (.pt) or end (.end)."""
        if self.method is None:
            return folder / self.part / f"{self.what}{suffix}"
        name = re.sub(r"[^a-z0-9]+", "-", self.what)
        return folder / self.part / f"{name}-seed-{self.seed}{suffix}"

    def points(self, size: Part) -> dict[int | None, tuple[Setting, ...]]:
        """Return where it is measured, by round; None: its last, under all laws of u."""
        method = self.method
        start, end = method.temperatures
        how = {"temperature": start, "temperature_end": end}
        found = [Setting(steps=n, **how) for n in (size.steps if method.main else size.few)]
        if method.teacher != UNIFORM:
            found += [Setting("sparse", "lattice", 1 / n, steps=n, **how) for n in size.lattice]
        rounds = range(1, size.rounds) if method.rounds else ()
        return {None: tuple(found), **{k: (Setting(steps=size.few[-1]),) for k in rounds}}


def plan(methods, parts, size: str, seeds: int | None = None) -> list[Job]:
    """Return every job, preparations first; seeds: at most so many a method."""
    jobs = []
    for name in parts:
        mine = [m for m in methods if name in m.parts]
        uniform = [UNIFORM] * any(m.teacher == UNIFORM for m in mine)
        prepared = settings.opened(name, size, Path()).preparations
        jobs += [Job(name, what) for what in (*uniform, *prepared)]
        for method in mine:
            count = SIZES[size][name].seeds[0 if method.main else 1]
            jobs += [
                Job(name, method.name, method, seed)
                for seed in range(1, 1 + min(count, seeds or count))
            ]
    # Seed by seed, so that what an interruption leaves can be read.
    return sorted(jobs, key=lambda job: (job.method is not None, job.seed))


def run_all(
    todo: Sequence[Job], size: str, folder: Path, workers: int, on_done: Callable[[Job], None]
) -> None:
    """Run all preparations, then all else, in processes of one thread each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when a worker imports torch
    call, spawned = partial(run, size=size, folder=folder), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned) if workers > 1 else nullcontext() as pool:
        for prepared in (True, False):
            batch = [job for job in todo if (job.method is None) == prepared]
            for job, _ in zip(batch, (pool.map if pool else map)(call, batch), strict=True):
                on_done(job)


def run(job: Job, size: str, folder: Path) -> None:
    """Do what is missing of a job, row by row."""
    torch.set_num_threads(1)
    weights, end = job.path(folder, ".pt"), job.path(folder, ".end")
    if end.exists() or (job.method is None and weights.exists()):
        return
    weights.parent.mkdir(parents=True, exist_ok=True)
    setting = settings.opened(job.part, size, folder / job.part)
    if job.method is None:
        keep(weights, setting.prepare(job.what))
        return
    try:
        measure(job, setting, students(job, setting, weights), folder)
        why = None
    except STOPS as error:
        why = " ".join(str(error).split())
    write_json(end, {"method": job.what, "why": why})
    weights.unlink(missing_ok=True)


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
    if algo == "algo=mmd":
        given.append(f"algo.rbf_alpha={part.rbf_alpha}")
    return given + own


def students(job: Job, setting, path: Path) -> dict[int, train.Weights]:
    """Return weights by round, of an earlier, interrupted run where it got that far."""
    method, part = job.method, setting.part
    if not method.overrides:
        return {} if method.name == ORACLE else {1: setting.weights(method.teacher)}
    if not path.exists():
        start = setting.weights(method.teacher)
        for each in (*method.after, method):
            found = train.fit(
                overrides(each, part, job.seed),
                setting.tokenizer,
                setting.rows,
                start=start,
                oracle=setting.oracle() if each.oracle else None,
                every=None if each.one_round else part.steps_per_round,
            )
            start = found[max(found)]
        if not all(w.isfinite().all() for w in found[max(found)].values()):
            raise DivergenceError("its weights are not finite.")
        keep(path, found)
    return torch.load(path, weights_only=True)


def noise(seed: int, what: str, *counters: int) -> torch.Generator:
    """Return the sweep's noise under this benchmark's names; equal seeds are paired."""
    if what == "sweep":
        steps, index = counters
        return counter_generator(seed, "draw", steps, index * BATCH)
    return counter_generator(seed, "bound" if what == "n-step" else what, *counters)


def measure(job: Job, setting, found: dict[int, train.Weights], folder: Path) -> None:
    """Sweep over the job's points into its own file."""
    method, part = job.method, setting.part
    label = TEACHER if method.masked_teacher else method.name
    for k, points in job.points(part).items():
        weights = found.get(k or max(found, default=0))
        model = setting.candidate(f"{label}, round {k}" if k else label, method, weights)
        model.provenance.update(method=method.name, round=k, host="minihost")
        Sweep(
            Plan(points, part.samples, BATCH, part.bound_rows, job.seed, by_row=True),
            job.path(folder, ".jsonl"),
            evaluator=lambda model: setting.evaluator,
            held_out=lambda model: setting.held_out,
            facts={"versions": versions(), "machine": machine("cpu")},
            noise=noise,
            outside=setting.outside,
        ).run([lambda model=model: model])
