"""A job: one method at one seed, trained where it has to be, then measured."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.errors import ConfigCompositionException, MissingConfigException

from mdlm_mcd import sampling
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.errors import ConfigError, DivergenceError, MCDError
from mdlm_mcd.evaluation import bounds, metrics

from . import setting as settings
from . import train
from .methods import ORACLE, UNIFORM, Method
from .sizes import SIZES, Part
from .store import Store

BATCH = 64  # samples and rows at a time
# A method that ends so is reported; anything else is a bug and ends the benchmark.
STOPS = (MCDError, MissingConfigException, ConfigCompositionException)
UNIFORM_ALGO = "algo=duo_base"


@dataclass(frozen=True)
class Point:
    """round: from 1, None for the student itself."""

    steps: int
    law: str = "iid"
    round: int | None = None


@dataclass(frozen=True)
class Job:
    """method at seed, or (method None) the preparation named by `what`."""

    part: str
    what: str
    method: Method | None = None
    seed: int = 1
    needs: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """A file's name for its students."""
        name = re.sub(r"[^a-z0-9]+", "-", self.what)
        return f"{name}-seed-{self.seed}"

    def points(self, size: Part) -> list[Point]:
        """Where it is measured: the iid law, the lattice, earlier rounds."""
        method = self.method
        if method is None:
            return []
        steps = size.steps if method.main else size.few
        found = [Point(n) for n in steps]
        if method.teacher != UNIFORM:
            found += [Point(n, "lattice") for n in size.lattice]
        if method.rounds:
            found += [Point(size.few[-1], round=k) for k in range(1, size.rounds)]
        return found

    def cost(self, size: Part) -> float:
        """Expected core seconds."""
        seconds = size.seconds
        if self.method is None:
            return seconds[self.what]
        passes = sum(point.steps for point in self.points(size))
        each = seconds["sample"] + seconds["bound"]
        return passes * each + self.method.trained * seconds["train"]


def plan(methods, parts, size: str, seeds: int | None = None) -> list[Job]:
    """Every job, preparations first; seeds: at most so many a method."""
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
    """Do what is missing of a job; rows go to the store one by one. Its CPU seconds."""
    torch.set_num_threads(1)
    start = time.process_time()
    setting = settings.opened(job.part, size, folder / job.part)
    store = Store(folder)
    if job.method is None:
        path = setting.folder / f"{job.what}.pt"
        try:
            if not (path.exists() or store.is_stopped(job)):
                keep(path, setting.prepare(job.what))
        except STOPS as error:
            store.add(job, None, {"stopped": said(error)})
        return time.process_time() - start
    done = store.done(job)
    missing = [p for p in job.points(setting.part) if p not in done]
    if not missing or store.is_stopped(job):
        return 0.0
    path = folder / job.part / f"{job.slug}.pt"
    try:
        students = _students(job, setting, path)
    except STOPS as error:
        store.add(job, None, {"stopped": said(error)})
        return time.process_time() - start
    for point in missing:
        weights = students.get(point.round or max(students, default=None))
        store.add(job, point, measure(job, point, setting, weights))
    path.unlink(missing_ok=True)
    return time.process_time() - start


def said(error: Exception) -> str:
    """What the table says of a method that did not run."""
    if isinstance(error, MissingConfigException):
        return f"this version has no {error.missing_cfg_file}"
    return " ".join(str(error).split())


def keep(path: Path, value) -> None:
    """All or nothing, as an interruption leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)


def overrides(method: Method, part: Part, seed: int) -> list[str]:
    """All of a student's training, as on the command line of the minihost."""
    algo, *own = method.overrides
    given = [algo, *part.model, *part.distil, f"seed={seed}"]
    given.append(f"trainer.max_steps={part.total_steps}")
    if algo != "algo=mdlm":
        rounds = 1 if method.one_round else part.rounds
        given.append(f"algo.steps_per_round={part.total_steps // rounds}")
        if not method.one_round:
            given += [f"algo.rounds={rounds}", f"algo.delta0={part.delta0}"]
    return given + own


def _students(job: Job, setting, path: Path) -> dict[int, train.Weights]:
    """Weights by round; of an earlier, interrupted run where it got that far."""
    method = job.method
    if method.name != ORACLE and not setting.has(method.teacher):
        raise ConfigError(f"there is no {method.teacher} to start from")
    if not method.trained:
        what = method.teacher
        return {} if method.name == ORACLE else {1: setting.weights(what)}
    if not path.exists():
        part = setting.part
        students = train.fit(
            overrides(method, part, job.seed),
            setting.tokenizer,
            setting.rows,
            start=setting.weights(method.teacher),
            oracle=setting.oracle() if method.oracle else None,
            every=None if method.one_round else part.steps_per_round,
        )
        if not all(w.isfinite().all() for w in students[max(students)].values()):
            raise DivergenceError("its weights are not finite.")
        keep(path, students)
    return torch.load(path, weights_only=True)


# Measuring ------------------------------------------------------------------------


def law_of(point: Point) -> dict:
    if point.law == "iid":
        return {"u_law": "iid"}
    return {"u_law": "lattice", "u_step": 1 / point.steps}


def measure(job: Job, point: Point, setting, weights: train.Weights | None) -> dict:
    """Samples and their figures at one point.

    The noise of a draw depends on seed and steps alone, so what is compared at the
    same seed is paired.
    """
    method, part = job.method, setting.part
    start = time.process_time()
    if method.teacher == UNIFORM:
        tokens, bound = _host_samples(job, point, setting, weights), {}
    else:
        if method.name == ORACLE:
            model = setting.candidate(ORACLE, setting.oracle().denoise)
        else:
            model = setting.masked(method.name, weights)
        tokens = draw(model, point, method.temperature, part.samples, job.seed)
        bound = bound_of(model, point, method.temperature, setting, job.seed)
    found = metrics.measure(
        tokens, evaluator=setting.evaluator, corpus_tokens=setting.held_out, resamples=2
    )
    figures = {name: figure["value"] for name, figure in found.items()}
    return {
        "metrics": {**bound, **figures},
        "seconds": round(time.process_time() - start, 2),
        "texts": setting.tokenizer.batch_decode(tokens[:2]),
    }


def draw(model, point: Point, temperature, count: int, seed: int) -> torch.Tensor:
    """(count, length) tokens by the sparse sampler, drawn in float64."""
    parts = []
    for first in range(0, count, BATCH):
        drawn = sampling.sample(
            "sparse",
            model.denoise,
            min(BATCH, count - first),
            model.length,
            point.steps,
            alpha=model.alpha,
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            temperature=temperature,
            generator=counter_generator(seed, "draw", point.steps, first),
            dtype=torch.float64,
            **law_of(point),
        )
        parts.append(drawn.tokens)
    return torch.cat(parts)


def bound_of(model, point: Point, temperature, setting, seed: int) -> dict[str, float]:
    """The N-step NELBO of the point's own N, law of u and temperature."""
    if isinstance(temperature, tuple):
        start, end = temperature

        def path(fraction):
            return start + (end - start) * fraction
    else:
        path = temperature
    scores = bounds.n_step_nelbo(
        model.denoise,
        setting.held_out[: setting.part.bound_rows],
        point.steps,
        alpha=model.alpha,
        mask_index=model.mask_index,
        temperature=path,
        generator=counter_generator(seed, "bound", point.steps),
        batch_size=BATCH,
        **law_of(point),
    )
    return {"n_step_nelbo": scores.value}


def _host_samples(job, point: Point, setting, weights) -> torch.Tensor:
    """Samples of a uniform-state model by the host's own ancestral sampler."""
    model = setting.model(weights, UNIFORM_ALGO)
    torch.manual_seed(counter_generator(job.seed, "host", point.steps).initial_seed())
    parts = [
        model.generate_samples(BATCH, num_steps=point.steps)
        for _ in range(-(-setting.part.samples // BATCH))
    ]
    return torch.cat(parts)[: setting.part.samples]
