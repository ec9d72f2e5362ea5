"""Every model at every point of a grid, one row each; goes on where it stopped.

A row is written when its point is measured and holds all that tells it apart, the
hash of the weights among it. What is in the file already is not measured again.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import laws, sampling
from ..checkpoints import sanitize
from ..checkpoints.files import check_overwrite, check_writable
from ..coupling import counter_generator
from ..errors import ConfigError
from . import bounds, metrics, results
from .candidate import Candidate
from .evaluators import Evaluator
from .plan import DTYPES, Plan, Point

SCHEMA = 1
# Samplers that open a token at the first step whose alpha exceeds its u: for these
# the N-step NELBO bounds the sampler's own likelihood.
OPEN_BY_U = ("ancestral", "sparse", "locked")
TEXTS = 4  # samples kept as text


IDENTITY = (
    "sha256",
    "sampler",
    "u_law",
    "u_step",
    "stratified",
    "steps",
    "temperature",
    "top_p",
    "dtype",
    "seed",
    "num_samples",
    "length",
    "evaluator",
    "corpus_sha256",
    "bound_rows",
)


# What a file has in common; one with more dtypes than one can be reported by parts.
SETTINGS = ("evaluator", "num_samples", "length", "seed", "corpus_sha256", "bound_rows")


def sha256_of(tokens: Tensor) -> str:
    """Of (rows, length) ids, in hex; the same for every dtype of ids."""
    ids = tokens.to("cpu", torch.int64)
    shape = torch.tensor(ids.shape)
    return hashlib.sha256(shape.numpy().tobytes() + ids.numpy().tobytes()).hexdigest()


def identity(row: dict[str, Any]) -> tuple:
    """Equal for rows of the same measurement."""
    return tuple(row.get(key) for key in IDENTITY)


def existing(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file; skip what is no row."""
    return _rows(_lines(path))


def resumed(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file to go on with.

    A last line that an interruption cut short is taken out of it. Raises ConfigError
    where there is another line that no sweep wrote, or it cannot be written; it is then
    as it was.
    """
    setting = f"--out {path}"
    check_writable(setting, path.parent)
    check_overwrite(setting, path, _foreign)
    lines = _lines(path)
    if not lines:
        return []
    cut = _cut(lines)
    try:
        with path.open("r+b") as file:
            file.seek(-len(cut), os.SEEK_END)
            file.truncate()
            if not cut and not lines[-1][0].endswith(b"\n"):
                file.write(b"\n")
    except OSError as error:
        raise ConfigError(
            f"{setting} cannot be written ({error.strerror}): name another file."
        ) from error
    return _rows(lines)


NO_JSON = "is no JSON"
HEAD = b'{"schema": '  # how each row begins


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any] | str]]:
    """Return each line with its row, or with the reason why it is none."""
    if not path.exists():
        return []
    found = []
    # As bytes: JSON leaves U+2028, a line end of `str.splitlines`, as it is.
    data = sanitize.read_bytes(path).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.strip():
            continue
        try:
            row = sanitize.loads(line.decode("utf-8", errors="replace"))
            results.check(row, f"line {number}")
        except ConfigError as error:
            row = str(error).rstrip(".")
        except ValueError:
            row = f"line {number} {NO_JSON}"
        found.append((line, row))
    return found


def _rows(lines: list[tuple[bytes, dict[str, Any] | str]]) -> list[dict[str, Any]]:
    return [row for _, row in lines if isinstance(row, dict)]


def _foreign(path: Path) -> str:
    """Return why a file is no results file to go on with; empty where it is one."""
    lines = _lines(path)
    wrong = [row for _, row in lines if isinstance(row, str)]
    return "" if not wrong or (len(wrong) == 1 and _cut(lines)) else wrong[0]


def _cut(lines: list[tuple[bytes, dict[str, Any] | str]]) -> bytes:
    """Return the last line where it is the beginning of a row, else nothing."""
    line, row = lines[-1]
    if line.endswith((b"\n", b"\r")) or not str(row).endswith(NO_JSON):
        return b""
    first = HEAD if len(lines) == 1 else lines[0][0][: min(len(HEAD), len(line))]
    return line if line.startswith(first) else b""


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def append(path: Path, row: dict[str, Any]) -> None:
    """One whole line on the disk, or what there was before."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))
        file.flush()
        os.fsync(file.fileno())


class Sweep:
    """Measures candidates at the points of a plan into one results file.

    evaluator(model): for that model's samples. evaluator_name: what it is called; with
    it none is opened for a model of which no point is missing. facts: what is the same
    for all rows (versions, machine, commit).
    on_point(done, total): cost so far, in network passes over all samples.
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
        on_point: Callable[[float, float, str], None] | None = None,
    ):
        plan.check()
        self.plan, self.out, self.facts = plan, out, facts or {}
        self.evaluator, self.evaluator_name = evaluator, evaluator_name
        self.held_out = held_out
        self.on_point = on_point or (lambda done, total, said: None)
        self._bounds: dict[tuple, dict[str, Any]] = {}
        self._information: Tensor | None = None

    def run(self, models: Sequence[Callable[[], Candidate]]) -> list[dict[str, Any]]:
        """Every row of the plan, those of earlier runs included.

        Raises ConfigError, before a model's first point, when its name stands in the
        file with other weights, or the file holds figures that no table could have
        beside these.
        """
        held = resumed(self.out)
        known = {(row.get("model"), identity(row)): row for row in held}
        same = {identity(row): row for row in held if row.get("sha256")}
        done, total = 0.0, float(len(models) * sum(p.steps for p in self.plan.points))
        rows = []
        for open_model in models:
            model = open_model()
            self._check_name(model, held)
            evaluator = None if self.evaluator_name else self.evaluator(model)
            name = self.evaluator_name or evaluator.name
            text, corpus = self.held_out(model), None
            heads = [self._head(model, point, name, text) for point in self.plan.points]
            self._check_settings(heads[0], held + rows)
            for point, row in zip(self.plan.points, heads, strict=True):
                self.on_point(done, total, f"{model.label} @ {point.steps}")
                found = known.get((model.label, identity(row)))
                if found is None and identity(row) in same:
                    # The same weights under another name.
                    found = same[identity(row)] | row
                    append(self.out, found)
                elif found is None:
                    if corpus is None:
                        evaluator = evaluator or self.evaluator(model)
                        with self._memory(model, name):
                            corpus = metrics.corpus_reference(
                                text, evaluator, self.plan.num_samples
                            )
                    found = row | self._measure(model, point, evaluator, text)
                    found["corpus"] = corpus
                    append(self.out, found)
                    if row.get("sha256"):
                        same[identity(row)] = found
                rows.append(found)
                done += point.steps
            self._bounds.clear()
            self._information = None
        self.on_point(done, total, "done")
        return rows

    def _check_name(self, model: Candidate, held: Iterable[dict[str, Any]]) -> None:
        mine = model.provenance.get("sha256")
        for row in held:
            if row["model"] == model.label and row.get("sha256") != mine:
                raise ConfigError(
                    f"--out {self.out} holds rows of a model {model.label!r} with "
                    f"other weights (sha256 {str(row.get('sha256'))[:12]} and not "
                    f"{str(mine)[:12]}): the checkpoint changed under the same name; "
                    "give it another label (LABEL=CKPT) or name another file."
                )

    def _check_settings(self, mine: dict, held: Sequence[dict[str, Any]]) -> None:
        for row in held:
            for key in SETTINGS:
                if row.get(key) != mine.get(key):
                    raise ConfigError(
                        f"--out {self.out} holds rows with {key} {row.get(key)}, and "
                        f"those of {mine['model']} would have {mine.get(key)}: no "
                        "table can hold both; name another file."
                    )

    @contextlib.contextmanager
    def _memory(self, model: Candidate, what: str) -> Iterator[None]:
        """A full GPU as a ConfigError that says what filled it."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"--batch-size {self.plan.batch_size} takes more memory than "
                f"{model.device} has, for {model.label} with {what}: choose a smaller "
                "one and start the same command again; what was measured is kept, and "
                "what follows draws from other noise."
            ) from error

    def _head(self, model: Candidate, point: Point, evaluator: str, text: Tensor) -> dict:
        return {
            "schema": SCHEMA,
            "model": model.label,
            **model.provenance,
            **asdict(point),
            "seed": self.plan.seed,
            "num_samples": self.plan.num_samples,
            "length": model.length,
            "evaluator": evaluator,
            "corpus_sha256": sha256_of(text),
            "bound_rows": min(self.plan.bound_rows, len(text)),
        }

    def _measure(self, model, point: Point, evaluator: Evaluator, text: Tensor) -> dict:
        fitted = {}
        if point.u_step == "auto":
            step = self._fit(model, point.steps, text)
            fitted["u_step_fitted"] = step
            point = replace(point, u_step=step)
        start = time.perf_counter()
        with self._memory(model, f"--sampler {point.sampler} at {point.steps} steps"):
            tokens, evaluations = draw(model, point, self.plan)
            tokens = tokens.cpu()  # waits for the device, too
            seconds = time.perf_counter() - start
            bound = self._bound(model, point, text)
        decode = model.tokenizer.batch_decode
        with self._memory(model, f"the evaluator {evaluator.name}"):
            found = metrics.measure(
                tokens,
                evaluator=evaluator,
                corpus_tokens=text.cpu(),
                eos=getattr(model.tokenizer, "eos_token_id", None),
                texts=(decode(tokens), decode(text[: len(tokens)].cpu()))
                if self.plan.mauve
                else None,
                seed=self.plan.seed,
            )
        return {
            **self.facts,
            **fitted,
            "seconds": seconds,
            "evaluations": evaluations,
            "batch_size": self.plan.batch_size,  # the noise goes by it
            "metrics": bound | found,
            "texts": decode(tokens[:TEXTS]),
        }

    def _fit(self, model: Candidate, steps: int, text: Tensor) -> float:
        """The lattice's step for held-out text and a number of steps."""
        if self._information is None:
            self._information = laws.mutual_information(
                text.cpu(), generator=counter_generator(self.plan.seed, "lags")
            )
        return laws.fit_step(self._information, model.length, steps)

    def _bound(self, model: Candidate, point: Point, text: Tensor) -> dict[str, Any]:
        """The bounds of a model on held-out text; they know nothing of its samples."""
        if point.top_p < 1 or point.sampler not in OPEN_BY_U:
            return {}  # what a nucleus cuts costs infinitely much
        key = (*_law(point).values(), point.steps, point.temperature)
        if key not in self._bounds:
            text = text.to(model.device)
            how = dict(temperature=point.temperature, batch_size=self.plan.batch_size)
            # The same masks for every model.
            n_step = bounds.n_step_nelbo(
                model.denoise,
                text[: self.plan.bound_rows],
                point.steps,
                alpha=model.alpha,
                mask_index=model.mask_index,
                **_law(point),
                generator=counter_generator(self.plan.seed, "n-step", point.steps),
                **how,
            )
            # One pass a row and a noisy figure: of all rows that there are.
            endless = bounds.nelbo_rows(
                model.denoise,
                model.noise,
                text,
                model.mask_index,
                generator=counter_generator(self.plan.seed, "nelbo"),
                **how,
            )
            self._bounds[key] = {
                name: scores.estimate(seed=self.plan.seed)._asdict()
                for name, scores in (("n_step_nelbo", n_step), ("nelbo", endless))
            }
        return self._bounds[key]


def _law(point: Point) -> dict[str, Any]:
    return {key: getattr(point, key) for key in ("u_law", "u_step", "stratified")}


def draw(model: Candidate, point: Point, plan: Plan) -> tuple[Tensor, int]:
    """(num_samples, length) tokens and the network evaluations of one sequence.

    Batches of one plan start from the same noise for every model, so differences
    between models are the models'; under `locked` for every number of steps, too.
    Another `batch_size` is another noise, but for `locked`.
    """
    parts, evaluations, left = [], 0, plan.num_samples
    for index in range(-(-plan.num_samples // plan.batch_size)):
        count = min(plan.batch_size, left)
        left -= count
        options = _law(point)
        if point.sampler == "locked":
            first = index * plan.batch_size
            options = {"latent": sampling.Latent(plan.seed, **options, first=first)}
        generator = torch.Generator(model.device)
        generator.manual_seed(
            counter_generator(plan.seed, "sweep", point.steps, index).initial_seed()
        )
        drawn = sampling.sample(
            point.sampler,
            model.denoise,
            count,
            model.length,
            point.steps,
            alpha=model.alpha,
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            generator=generator,
            dtype=DTYPES[point.dtype],
            temperature=point.temperature,
            top_p=point.top_p,
            **options,
        )
        parts.append(drawn.tokens)
        evaluations = max(evaluations, drawn.evaluations)
    return torch.cat(parts), evaluations
