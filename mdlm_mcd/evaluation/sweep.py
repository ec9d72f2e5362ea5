"""Measure every model at every point of a grid, one row each; go on after a stop.

A row is written when its point is measured and holds all that tells it apart, the
hash of the weights among it. What is in the file already is not measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import laws, sampling
from ..coupling import counter_generator
from ..errors import ConfigError
from . import bounds, metrics
from .candidates import Candidate
from .evaluators import Evaluator
from .plan import DTYPES, Plan, Setting
from .results import SETTINGS
from .rows import SCHEMA, append, existing, resumed

__all__ = ["Sweep", "append", "draw", "existing", "identity", "resumed", "sha256_of"]

# Samplers that open a token at the first step whose alpha exceeds its u: for these
# the N-step NELBO bounds the sampler's own likelihood.
OPEN_BY_U = ("ancestral", "sparse", "locked")
TEXTS = 4  # samples kept as text

POINT = tuple(Setting.__dataclass_fields__)
# What a file has in common; one with more dtypes than one can be reported by parts.
SHARED = tuple(key for key in SETTINGS if key != "dtype")
IDENTITY = ("sha256", *POINT, *SHARED)

Noise = Callable[..., torch.Generator]
"""noise(seed, what, *counters): a CPU generator for the draws named by `what`."""


def sha256_of(tokens: Tensor) -> str:
    """Hash (rows, length) ids, in hex; the same for every dtype of ids."""
    ids = tokens.to("cpu", torch.int64)
    shape = torch.tensor(ids.shape)
    return hashlib.sha256(shape.numpy().tobytes() + ids.numpy().tobytes()).hexdigest()


def identity(row: dict[str, Any]) -> tuple:
    """Return what is equal for rows of the same measurement."""
    return tuple(row.get(key) for key in IDENTITY)


class Sweep:
    """Measure candidates at the points of a plan into one results file.

    evaluator(model): for that model's samples. evaluator_name: what it is called; with
    it none is opened for a model of which no point is missing. facts: what is the same
    for all rows (versions, machine, commit).
    on_point(done, total, what): cost so far, in network passes over all samples.
    noise: `counter_generator`, or what takes its place: see `Noise`.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        *,
        evaluator: Callable[[Candidate], Evaluator],
        held_out: Callable[[Candidate], Tensor],
        evaluator_name: str | None = None,
        facts: dict[str, Any] | None = None,
        on_point: Callable[[float, float, str], None] = lambda done, total, what: None,
        noise: Noise = counter_generator,
    ):
        plan.check()
        self.plan, self.out, self.facts = plan, out, facts or {}
        self.evaluator, self.evaluator_name = evaluator, evaluator_name
        self.held_out, self.on_point, self.noise = held_out, on_point, noise
        self._of_model: dict[tuple, Any] = {}  # figures that several points share

    def run(self, models: Sequence[Callable[[], Candidate]]) -> list[dict[str, Any]]:
        """Return every row of the plan, those of earlier runs included.

        Raises ConfigError, before a model's first point, when its name stands in the
        file with other weights, or the file has figures that no table could have
        beside these.
        """
        earlier = resumed(self.out)
        known = {(row.get("model"), identity(row)): row for row in earlier}
        same = {identity(row): row for row in earlier if row.get("sha256")}
        done, total = 0.0, float(len(models) * sum(p.steps for p in self.plan.points))
        rows = []
        for open_model in models:
            model = open_model()
            self._of_model.clear()
            self._check_name(model, earlier)
            evaluator = None if self.evaluator_name else self.evaluator(model)
            name = self.evaluator_name or evaluator.name
            text = self.held_out(model)
            heads = [self._head(model, point, name, text) for point in self.plan.points]
            self._check_settings(heads[0], earlier + rows)
            for point, row in zip(self.plan.points, heads, strict=True):
                self.on_point(done, total, f"{model.label} @ {point.steps}")
                found = known.get((model.label, identity(row)))
                if found is None and identity(row) in same:
                    # The same weights under another name.
                    found = same[identity(row)] | row
                    append(self.out, found)
                elif found is None:
                    evaluator = evaluator or self.evaluator(model)
                    found = row | self._measure(model, point, evaluator, text)
                    append(self.out, found)
                    if row.get("sha256"):
                        same[identity(row)] = found
                rows.append(found)
                done += point.steps
        self.on_point(done, total, "done")
        return rows

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._of_model:
            self._of_model[key] = make()
        return self._of_model[key]

    def _check_name(self, model: Candidate, earlier: Iterable[dict[str, Any]]) -> None:
        mine = model.provenance.get("sha256")
        for row in earlier:
            if row["model"] == model.label and row.get("sha256") != mine:
                raise ConfigError(
                    f"--out {self.out} holds rows of a model {model.label!r} with "
                    f"other weights (sha256 {str(row.get('sha256'))[:12]} and not "
                    f"{str(mine)[:12]}): the checkpoint changed under the same name; "
                    "give it another label (LABEL=CKPT) or name another file."
                )

    def _check_settings(self, mine: dict, earlier: Sequence[dict[str, Any]]) -> None:
        for row in earlier:
            for key in SHARED:
                if row.get(key) != mine.get(key):
                    raise ConfigError(
                        f"--out {self.out} holds rows with {key} {row.get(key)}, and "
                        f"those of {mine['model']} would have {mine.get(key)}: no "
                        "table can hold both; name another file."
                    )

    @contextlib.contextmanager
    def _memory(self, model: Candidate, what: str) -> Iterator[None]:
        """Raise a full GPU as a ConfigError that says what filled it."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"--batch-size {self.plan.batch_size} takes more memory than "
                f"{model.device} has, for {model.label} with {what}: choose a smaller "
                "one and start the same command again; what was measured is kept, and "
                "what follows draws from other noise."
            ) from error

    def _head(self, model: Candidate, point: Setting, evaluator: str, text: Tensor) -> dict:
        return {
            "schema": SCHEMA,
            "model": model.label,
            **model.provenance,
            **asdict(point),
            "seed": self.plan.seed,
            "num_samples": self.plan.num_samples,
            "length": model.length,
            "evaluator": evaluator,
            "corpus_sha256": self._once(("text",), lambda: sha256_of(text)),
            "bound_rows": min(self.plan.bound_rows, len(text)),
        }

    def _measure(self, model, point: Setting, evaluator: Evaluator, text: Tensor) -> dict:
        plan, fitted = self.plan, {}
        with self._memory(model, f"the evaluator {evaluator.name}"):
            corpus = self._once(
                ("corpus",), lambda: metrics.corpus_reference(text, evaluator, plan.num_samples)
            )
        if point.u_step == "auto":
            step = self._fit(model, point.steps, text)
            fitted["u_step_fitted"] = step
            point = replace(point, u_step=step)
        start = time.perf_counter()
        with self._memory(model, f"--sampler {point.sampler} at {point.steps} steps"):
            tokens, evaluations = draw(model, point, plan, self.noise)
            tokens = tokens.cpu()  # waits for the device, too
            seconds = time.perf_counter() - start
            bound = self._bounds(model, point, text)
        decode = model.tokenizer.batch_decode
        with self._memory(model, f"the evaluator {evaluator.name}"):
            found = metrics.measure(
                tokens,
                evaluator=evaluator,
                corpus_tokens=text.cpu(),
                eos=getattr(model.tokenizer, "eos_token_id", None),
                texts=(decode(tokens), decode(text[: len(tokens)].cpu())) if plan.mauve else None,
                seed=plan.seed,
            )
        return {
            **self.facts,
            **fitted,
            "seconds": seconds,
            "evaluations": evaluations,
            "batch_size": plan.batch_size,  # the noise goes by it
            "metrics": bound | found,
            "texts": decode(tokens[:TEXTS]),
            "corpus": corpus,
        }

    def _fit(self, model: Candidate, steps: int, text: Tensor) -> float:
        """Return the lattice's step for held-out text and a number of steps."""
        information = self._once(
            ("lags",),
            lambda: laws.mutual_information(
                text.cpu(), generator=self.noise(self.plan.seed, "lags")
            ),
        )
        return laws.fit_step(information, model.length, steps)

    def _bounds(self, model: Candidate, point: Setting, text: Tensor) -> dict[str, Any]:
        """Return the bounds of a model on held-out text, the same for all its samples."""
        if point.top_p < 1 or point.sampler not in OPEN_BY_U or model.denoise is None:
            return {}  # what a nucleus cuts costs infinitely much
        plan, text = self.plan, text.to(model.device)
        start, end = point.temperature, point.temperature_end

        def n_step() -> dict:
            # The same masks for every model.
            return bounds.n_step_nelbo(
                model.denoise,
                text[: plan.bound_rows],
                point.steps,
                alpha=model.alpha,
                mask_index=model.mask_index,
                **_law(point),
                generator=self.noise(plan.seed, "n-step", point.steps),
                temperature=start if end is None else lambda share: start + (end - start) * share,
                batch_size=plan.batch_size,
            ).estimate(seed=plan.seed)

        def endless() -> dict:
            # One pass a row and a noisy figure: of all rows that there are.
            return bounds.nelbo_rows(
                model.denoise,
                model.noise,
                text,
                model.mask_index,
                generator=self.noise(plan.seed, "nelbo"),
                temperature=start,
                batch_size=plan.batch_size,
            ).estimate(seed=plan.seed)

        key = (*_law(point).values(), point.steps, start, end)
        found = {"n_step_nelbo": self._once(key, n_step)}
        if end is None:  # it knows neither a law of u nor a number of steps
            found["nelbo"] = self._once(("nelbo", start), endless)
        return {name: figure._asdict() for name, figure in found.items()}


def _law(point: Setting) -> dict[str, Any]:
    return {key: getattr(point, key) for key in ("u_law", "u_step", "stratified")}


def draw(
    model: Candidate, point: Setting, plan: Plan, noise: Noise = counter_generator
) -> tuple[Tensor, int]:
    """Draw (num_samples, length) tokens; also return one sequence's network evaluations.

    Batches of one plan start from the same noise for every model, so differences
    between models are the models'; under `locked` for every number of steps, too.
    Another `batch_size` is another noise, but for `locked`.
    """
    if model.generate is not None:
        generator = noise(plan.seed, "host", point.steps)
        return model.generate(plan.num_samples, point.steps, generator), point.steps
    temperature = point.temperature
    if point.temperature_end is not None:
        temperature = (temperature, point.temperature_end)
    parts, evaluations = [], 0
    for index, first in enumerate(range(0, plan.num_samples, plan.batch_size)):
        options = _law(point)
        if point.sampler == "locked":
            options = {"latent": sampling.Latent(plan.seed, **options, first=first)}
        generator = torch.Generator(model.device)
        generator.manual_seed(noise(plan.seed, "sweep", point.steps, index).initial_seed())
        drawn = sampling.sample(
            point.sampler,
            model.denoise,
            min(plan.batch_size, plan.num_samples - first),
            model.length,
            point.steps,
            alpha=model.alpha,
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            generator=generator,
            dtype=DTYPES[point.dtype],
            temperature=temperature,
            top_p=point.top_p,
            **options,
        )
        parts.append(drawn.tokens)
        evaluations = max(evaluations, drawn.evaluations)
    return torch.cat(parts), evaluations
