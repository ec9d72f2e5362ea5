"""Read rows of measurements as points of curves; see docs/report.md for the schema.

A results file is JSON lines, one row a point: a model at a number of steps and a
temperature. What is wrong with a row is an error that names file and line; what an
interruption left behind is passed over, with a sentence in `Results.said`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..errors import ConfigError, shown
from . import rows
from .intervals import Estimate
from .rows import finite

# What has to be equal for two figures to stand in one table.
SETTINGS = ("evaluator", "dtype", "num_samples", "length", "seed", "corpus_sha256", "bound_rows")
# What makes another curve of the same model.
VARIANT = ("sampler", "u_law", "u_step", "stratified", "top_p", "temperature_end")
_DEFAULT = {"u_law": "iid", "stratified": False, "top_p": 1.0}


@dataclass(frozen=True)
class Point:
    """One row of a results file, and where it stood."""

    row: dict
    source: str
    name: str = ""  # of its curve: the model, and what else tells curves apart

    def __getattr__(self, key: str):
        if key.startswith("__"):
            raise AttributeError(key)
        found = self.row.get(key)  # null says no more than nothing does
        return _DEFAULT.get(key) if found is None else found

    def metric(self, name: str) -> Estimate | None:
        """Return the figure of that name; None where it was not measured or is not finite."""
        found = self.row["metrics"].get(name)
        if not found or not finite(found.get("value")):
            return None
        low, high = found.get("low"), found.get("high")
        both = finite(low) and finite(high)
        return Estimate(found["value"], *((low, high) if both else ()))

    @property
    def correlation(self) -> float | None:
        """Correlation of the errors of log perplexity and entropy; None where it is not known."""
        found = (self.row["metrics"].get("perplexity") or {}).get("correlation")
        return found if finite(found) and abs(found) <= 1 else None

    @property
    def curve(self) -> tuple:
        """Equal for the points of one curve: all but steps and temperature."""
        keys = ("model", "sha256", *VARIANT, *SETTINGS)
        return tuple(str(getattr(self, key)) for key in keys)


@dataclass
class Results:
    """Points that may stand in one table, in the order of their files.

    said: what the reader has to know of the files, in sentences. mixed: settings that
    differ although figures are compared, with their values (only under `force`).
    """

    points: list[Point]
    said: list[str] = field(default_factory=list)
    mixed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def steps(self) -> list[int]:
        return sorted({p.steps for p in self.points})

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(p.name for p in self.points))

    def temperatures(self, name: str) -> list[float]:
        """Return those of a curve, the plain one first, then from high to low."""
        found = {p.temperature for p in self._curves.get(name, [])}
        return sorted(found, key=lambda t: (t != 1, -t))

    def of(self, name: str, temperature: float | None = None) -> list[Point]:
        """Return a curve's points by steps and temperature."""
        found = self._curves.get(name, [])
        return [p for p in found if temperature in (None, p.temperature)]

    def of_text(self, metric: str) -> float | None:
        """Return that figure of the held-out text; None where rows differ on it."""
        found = [(p.corpus or {}).get(metric) for p in self.points]
        found = [v for v in found if finite(v)]
        if not found or max(found) - min(found) > 1e-6 * abs(found[0]):
            return None
        return found[0]

    def at(self, name: str, temperature: float, steps: int) -> Point | None:
        return self._places.get((name, temperature, steps))

    @cached_property
    def _curves(self) -> dict[str, list[Point]]:
        out: dict[str, list[Point]] = {}
        for p in sorted(self.points, key=lambda p: (p.steps, p.temperature)):
            out.setdefault(p.name, []).append(p)
        return out

    @cached_property
    def _places(self) -> dict[tuple, Point]:
        return {(p.name, p.temperature, p.steps): p for p in self.points}


def _rows(path: Path, said: list[str]) -> Iterable[tuple[dict, str]]:
    try:
        lines = rows.lines(path, f"{path.name}, line")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): name a results file that "
            "`mdlm-mcd sweep` wrote."
        ) from error
    for line in lines:
        if line.fault.endswith(rows.NO_JSON):
            said.append(
                f"{line.where} is cut short or corrupt, as an interruption leaves it, and "
                "was passed over."
            )
        elif line.fault:
            raise ConfigError(f"{line.fault}.")
    found = [(line.row, line.where) for line in lines if not line.fault]
    if not found:
        raise ConfigError(
            f"{path} holds no row of results: name a file that `mdlm-mcd sweep` wrote."
        )
    return found


def read(paths: Iterable[Path | str], *, force: bool = False) -> Results:
    """Return the rows of all files as points of named curves.

    Of two rows for one point the later wins. Rows that differ in evaluator, sampling
    dtype, number or length of samples, seed, or held-out text (and rows of it for the
    bounds) do not stand in one table, and one label is one file: ConfigError, or with
    `force` curves apart, named by what differs, and `Results.mixed`.
    """
    said: list[str] = []
    points: dict[tuple, Point] = {}
    for path in map(Path, paths):
        for row, where in _rows(path, said):
            point = Point(row, where)
            key = (*point.curve, point.steps, float(point.temperature))
            if key in points:
                said.append(
                    f"{where} repeats {points[key].source} ({point.model}, "
                    f"{point.steps} steps, T = {point.temperature:g}); the later one "
                    "counts."
                )
                del points[key]
            points[key] = point
    results = Results(list(points.values()), said)
    _tell_apart(results, force)
    return results


def _values(points: Iterable[Point], key: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(p, key)) for p in points))


def _tell_apart(results: Results, force: bool) -> None:
    """Name the curves; refuse what must not stand side by side."""
    points = results.points
    for key in SETTINGS:
        values = _values(points, key)
        if len(values) < 2:
            continue
        if not force:
            other = next(p for p in points if str(getattr(p, key)) == values[1])
            raise ConfigError(
                f"{other.source} has {key} {values[1]} where {points[0].source} has "
                f"{values[0]}: such figures are not compared; report them apart, or "
                "mark them with --force."
            )
        results.mixed[key] = values
    hashes_of: dict[str, dict[str, None]] = {}
    for p in points:
        hashes_of.setdefault(p.model, {})[str(p.sha256)] = None
    changed = {model: list(hashes) for model, hashes in hashes_of.items() if len(hashes) > 1}
    if changed and not force:
        model, hashes = next(iter(changed.items()))
        first, other = (
            next(p for p in points if p.model == model and str(p.sha256) == h) for h in hashes[:2]
        )
        raise ConfigError(
            f"{other.source} has another checkpoint under the name {shown(repr(model))} "
            f"than {first.source} (sha256 {hashes[1][:8]} and {hashes[0][:8]}): the "
            "file changed; give one of them another label, or keep them apart with "
            "--force."
        )
    for model in changed:
        results.said.append(
            f"The checkpoint of {model} changed under the same name; its versions are "
            "kept apart by their sha256."
        )
    apart = [k for k in VARIANT if len(_values(points, k)) > 1]
    for i, point in enumerate(points):
        extra = [_setting(point, key) for key in (*apart, *results.mixed)]
        if point.model in changed:
            extra.append(str(point.sha256)[:8])
        name = ", ".join([point.model, *(e for e in extra if e)])
        points[i] = replace(point, name=name)


# What a curve's name says of a setting that differs.
_WORDS = {
    "u_law": "u {}",
    "u_step": "step {}",
    "stratified": "stratified",
    "top_p": "top-p {:g}",
    "temperature_end": "T to {:g}",
    "num_samples": "{} samples",
    "length": "{} tokens",
    "seed": "seed {}",
    "corpus_sha256": "held-out text {!s:.8}",
    "bound_rows": "{} rows of it",
}


def _setting(point: Point, key: str) -> str:
    """Return a setting's words; nothing where it is the usual one."""
    value = getattr(point, key)
    usual = key in VARIANT and value == _DEFAULT.get(key)
    return "" if usual else _WORDS.get(key, "{}").format(value)
