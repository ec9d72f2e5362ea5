"""Measure every model at every point of a grid, one row each; go on after a stop."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import laws, sampling
from ..coupling import counter_generator
from ..errors import ConfigError, shown
from ..sampling.chain import levels_of
from . import bounds, diversity, intervals, metrics
from .candidates import Candidate
from .evaluators import Evaluator
from .intervals import Scores
from .likelihood import comb_likelihood, confidence_likelihood, in_equal_shares, order_is_drawn
from .plan import DTYPES, Plan, Setting
from .results import SETTINGS, clash
from .rows import SCHEMA, append, resumed

# Samplers that open a token at the first step whose alpha exceeds its u: for these
# the N-step NELBO bounds the sampler's own likelihood.
OPEN_BY_U = ("ancestral", "sparse", "locked")
TEXTS = 4  # samples kept as text

IDENTITY = ("sha256", *Setting.__dataclass_fields__, *SETTINGS)

Noise = Callable[..., torch.Generator]
"""noise(seed, what, *counters): a CPU generator for the draws named by `what`."""


def sha256_of(tokens: Tensor) -> str:
    """Hash (rows, length) ids, in hex; the same for every dtype of ids."""
    ids = tokens.to("cpu", torch.int64)
    shape = torch.tensor(ids.shape)
    return hashlib.sha256(shape.numpy().tobytes() + ids.numpy().tobytes()).hexdigest()


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what is equal for rows of the same measurement."""
    return tuple(row.get(key) for key in IDENTITY)


@dataclass
class Sweep:
    """Measure candidates at the points of a plan into one results file.

    evaluator(model): for that model's samples. evaluator_name: what it is called; with it none
    is opened where no point is missing. facts: of all rows (versions, machine, commit).
    on_point(done, total, what): cost so far, in network passes over all samples.
    outside(model, point): a second evaluator for samples drawn there, or None.
    """

    plan: Plan
    out: Path
    _: KW_ONLY
    evaluator: Callable[[Candidate], Evaluator]
    held_out: Callable[[Candidate], Tensor]
    evaluator_name: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    on_point: Callable[[float, float, str], None] = lambda done, total, what: None
    noise: Noise = counter_generator
    outside: Callable[[Candidate, Setting], Evaluator | None] = lambda model, point: None
    _of_model: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # what points share

    def __post_init__(self) -> None:
        self.plan.check()

    def run(self, models: Sequence[Callable[[], Candidate]]) -> list[dict[str, Any]]:
        """Return every row of the plan, those of earlier runs included.

        Raises ConfigError, before a model's first point, when its name stands in the
        file with other weights, or the file has figures that no table could have
        beside these.
        """
        earlier = resumed(self.out)
        known = {(row["model"], identity(row)): row for row in earlier}
        same = {identity(row): row for row in earlier if row.get("sha256")}
        done, total = 0.0, float(len(models) * sum(p.steps for p in self.plan.points))
        rows: list[dict[str, Any]] = []
        for open_model in models:
            model = open_model()
            self._of_model.clear()
            evaluator = cache(partial(self.evaluator, model))
            name = self.evaluator_name or evaluator().name
            text = self.held_out(model)
            if self.plan.mauve:
                diversity.require_mauve(len(text))
            heads = [self._head(model, point, name, text) for point in self.plan.points]
            self._check(heads[0], earlier + rows)
            for point, head in zip(self.plan.points, heads, strict=True):
                self.on_point(done, total, f"{model.label} @ {point.steps}")
                found = known.get((model.label, identity(head)), {})
                if not self._is_whole(model, point, found):
                    # Figures of the same weights under another name are taken over.
                    found = same.get(identity(head), {}) | head
                    if not self._is_whole(model, point, found):
                        with self._room(model, point):
                            had = found.get("metrics", {})  # what another flag asked for
                            found |= self._measure(model, point, evaluator(), text)
                            found["metrics"] = had | found["metrics"]
                    append(self.out, found)
                    if head.get("sha256"):
                        same[identity(head)] = found
                rows.append(found)
                done += point.steps
        self.on_point(done, total, "done")
        return rows

    @contextlib.contextmanager
    def _room(self, model: Candidate, point: Setting) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"--batch-size {self.plan.batch_size} takes more memory than {model.device} has, "
                f"for {model.label} by --sampler {point.sampler} at {point.steps} steps: choose a "
                "smaller one and start the same command again; what was measured is kept."
            ) from error

    def _wants_likelihood(self, model: Candidate, point: Setting) -> bool:
        comb = point.u_law == "lattice" and not point.stratified and point.u_step == 1 / point.steps
        plain = point.top_p == 1 and ":" not in point.sampler  # options: a schedule, a greedy tail
        asked = self.plan.exact and comb and plain and model.denoise is not None
        asked = asked and model.bos is None
        return asked and in_equal_shares(model.alpha, point.steps)

    def _is_whole(self, model: Candidate, point: Setting, row: Mapping[str, Any]) -> bool:
        """Return whether a row has figures, and those that a flag asks for since."""
        asked = {"mauve": self.plan.mauve, "nll": self._wants_likelihood(model, point)}
        metrics = row.get("metrics", {})
        return bool(metrics) and all(name in metrics for name, needed in asked.items() if needed)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._of_model:
            self._of_model[key] = make()
        return self._of_model[key]

    def _check(self, mine: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> None:
        for row in earlier:
            if row["model"] == mine["model"] and not mine.get("sha256"):
                raise ConfigError(
                    f"--out {self.out} holds rows of {row['model']}, and a model without a hash "
                    "cannot be told from it: give its Candidate provenance={'sha256': "
                    "identity.sha256(network.state_dict())}, or name another file or label."
                )
            # One file may have several dtypes, which are reported by parts.
            key = clash({**row, "dtype": None}, {**mine, "dtype": None})
            if key:
                raise ConfigError(
                    f"--out {self.out} holds rows of {row['model']} with {key} "
                    f"{shown(row.get(key))}, and those of {mine['model']} would have "
                    f"{shown(mine.get(key))}: no table can hold both; name another file, or "
                    "another label for another checkpoint (LABEL=CKPT)."
                )

    def _head(
        self, model: Candidate, point: Setting, evaluator: str, text: Tensor
    ) -> dict[str, Any]:
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

    def _measure(
        self, model: Candidate, point: Setting, evaluator: Evaluator, text: Tensor
    ) -> dict[str, Any]:
        plan, fitted = self.plan, dict[str, Any]()
        corpus = self._once(
            ("corpus",), lambda: metrics.corpus_reference(text, evaluator, plan.num_samples)
        )
        if point.u_step == "auto":
            chance = self.noise(plan.seed, "lags")
            lags = self._once(
                ("lags",), lambda: laws.mutual_information(text.cpu(), generator=chance)
            )
            schedule = sampling.parse(point.sampler)[1].get("schedule")
            shares = torch.tensor(levels_of(model.alpha, point.steps, schedule)).diff().tolist()
            step = laws.fit_step(lags, model.length, point.steps, schedule=shares)
            fitted["u_step_fitted"] = step
            point = replace(point, u_step=step)
        start = time.perf_counter()
        tokens, evaluations = draw(model, point, plan, self.noise)
        tokens = tokens.cpu()  # waits for the device, too
        seconds = time.perf_counter() - start
        bound = self._bounds(model, point, text)
        decode = model.tokenizer.batch_decode
        found = metrics.measure(
            tokens,
            evaluator=evaluator,
            corpus_tokens=text.cpu(),
            eos=getattr(model.tokenizer, "eos_token_id", None),
            texts=(decode(tokens), decode(text[: len(tokens)].cpu())) if plan.mauve else None,
            seed=plan.seed,
        )
        if outside := self.outside(model, point):
            fitted["outside_evaluator"] = outside.name
            estimate = outside.nll(tokens).estimate(intervals.perplexity, seed=plan.seed)
            found["outside_perplexity"] = estimate._asdict()
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

    def _bounds(self, model: Candidate, point: Setting, text: Tensor) -> dict[str, Any]:
        """Return the likelihood of held-out text, or its bounds, the same for all samples."""
        denoise, plan = model.denoise, self.plan
        sampler, options = sampling.parse(point.sampler)
        schedule = options.get("schedule")
        if point.top_p < 1 or options.pop("greedy_tail", 0) or denoise is None:
            return {}  # what a nucleus or a greedy step cuts costs infinitely much
        text = text.to(model.device)
        how: dict[str, Any] = {"mask_index": model.mask_index, "batch_size": plan.batch_size}
        as_drawn = how | {"alpha": model.alpha, "temperature": point.path}
        rows, free = text[: plan.bound_rows], model.free(text)
        generator = partial(self.noise, plan.seed)  # the same masks for every model

        def exact(of: Callable[..., Scores], **own: Any) -> dict[str, Any]:
            scores = of(denoise, rows, point.steps, **as_drawn, **own)
            return scores.estimate(seed=plan.seed)._asdict()

        if sampler == "confidence" and not order_is_drawn(**options) and free is None:
            return {"nll": exact(confidence_likelihood, **options)}
        if sampler not in OPEN_BY_U or options.get("remask"):
            return {}

        def n_step() -> dict[str, Any]:
            own = as_drawn | point.law | {"generator": generator("n-step", point.steps)}
            own["free"] = None if free is None else free[: len(rows)]
            scores = bounds.n_step_nelbo(denoise, rows, point.steps, schedule=schedule, **own)
            by_row = (scores.nats / scores.tokens).tolist()
            kept = {"by_row": [round(x, 5) for x in by_row]} if plan.by_row else {}
            return scores.estimate(seed=plan.seed)._asdict() | kept

        def continuous() -> dict[str, Any]:
            # One pass a row and a noisy figure: of all rows that there are.
            own = how | {"generator": generator("nelbo"), "temperature": point.temperature}
            own["free"] = free
            scores = bounds.nelbo_rows(denoise, model.noise, text, **own)
            return scores.estimate(seed=plan.seed)._asdict()

        key = (*point.law.values(), point.steps, point.path, str(schedule))
        found = {"n_step_nelbo": self._once(key, n_step)}
        last, first = model.alpha(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        charged = last <= 0.01 and first >= 0.99  # else some tokens cost nothing: no bound
        # It knows neither a law of u nor a number of steps.
        if charged and point.temperature_end is None:
            found["nelbo"] = self._once(("nelbo", point.temperature), continuous)
        if self._wants_likelihood(model, point):
            found["nll"] = self._once(("nll", *key), lambda: exact(comb_likelihood))
        return found


def draw(
    model: Candidate,
    point: Setting,
    plan: Plan,
    noise: Noise = counter_generator,
    prompt: Tensor | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, int]:
    """Draw (num_samples, length) tokens; also return one sequence's network evaluations.

    prompt (of all of them), callback: as of `sampling.sample`. Batches start from the same noise
    for every model; under `locked` for every number of steps, too. Another `batch_size` is
    another noise, but for `locked`.
    """
    if model.generate is not None:
        if point != Setting(steps=point.steps):
            raise ConfigError(
                f"{model.label} draws by its own `generate`, which knows steps alone: leave "
                "sampler, law of u, temperature, top_p and dtype at their defaults."
            )
        generator = noise(plan.seed, "host", point.steps)
        return model.generate(plan.num_samples, point.steps, generator), point.steps
    assert model.denoise is not None
    sampler, own = sampling.parse(point.sampler)
    if model.bos is not None:
        shape = (plan.num_samples, model.length)
        prompt = torch.full(shape, model.mask_index) if prompt is None else prompt.clone()
        prompt[:, 0] = model.bos
    drawn = []
    for index, first in enumerate(range(0, plan.num_samples, plan.batch_size)):
        options = point.law
        if sampler == "locked":
            options = {"latent": sampling.Latent(plan.seed, **options, first=first)}
        generator = torch.Generator(model.device)
        generator.manual_seed(noise(plan.seed, "sweep", point.steps, index).initial_seed())
        count = min(plan.batch_size, plan.num_samples - first)
        part = sampling.sample(
            sampler,
            model.denoise,
            count,
            model.length,
            point.steps,
            alpha=model.alpha,
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            generator=generator,
            dtype=DTYPES[point.dtype],
            temperature=point.path,
            top_p=point.top_p,
            prompt=None if prompt is None else prompt[first : first + count],
            device=model.device,
            callback=callback,
            **options,
            **own,
        )
        drawn.append(part)
    return torch.cat([part.tokens for part in drawn]), max(part.evaluations for part in drawn)
