"""Read rows of measurements as points of curves; see docs/report.md for the schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError, border, shown
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

    row: dict[str, Any]
    source: str
    name: str = ""  # of its curve: the model, and what else tells curves apart

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        found = self.row.get(key)  # null says no more than nothing does
        return _DEFAULT.get(key) if found is None else found

    def metric(self, name: str) -> Estimate | None:
        """Return the figure of that name; None where it was not measured or is not finite."""
        figure: dict[str, Any] = self.row["metrics"].get(name) or {}
        value, *ends = [figure.get(part, math.nan) for part in rows.PARTS]
        return Estimate(value, *(ends if all(map(finite, ends)) else ())) if finite(value) else None

    @property
    def correlation(self) -> float | None:
        """Return that of the errors of log perplexity and entropy; None where it is not known."""
        found: Any = (self.row["metrics"].get("perplexity") or {}).get("correlation")
        return found if finite(found) and abs(found) <= 1 else None

    @property
    def curve(self) -> tuple[str, ...]:
        """Return what is equal for the points of one curve: all but steps and temperature."""
        keys = ("model", "sha256", *VARIANT, *SETTINGS)
        return tuple(str(getattr(self, key)) for key in keys)


@dataclass
class Results:
    """Points that may stand in one table, in the order of their files.

    notes: sentences on the files. mixed: settings that differ under `force`, with their values.
    """

    points: list[Point]
    notes: list[str] = field(default_factory=list)
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
        every: list[Any] = [(p.corpus or {}).get(metric) for p in self.points]
        found = [v for v in every if finite(v)]
        same = found and max(found) - min(found) <= 1e-6 * abs(found[0])
        return found[0] if same else None

    def at(self, name: str, temperature: float, steps: int) -> Point | None:
        return next((p for p in self.of(name, temperature) if p.steps == steps), None)

    @cached_property
    def _curves(self) -> dict[str, list[Point]]:
        out: dict[str, list[Point]] = {}
        for p in sorted(self.points, key=lambda p: (p.steps, p.temperature)):
            out.setdefault(p.name, []).append(p)
        return out


def clash(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return in which setting two rows differ that may not stand in one table, or "".

    `sha256` where a checkpoint changed under its name.
    """
    if row["model"] == other["model"] and row.get("sha256") != other.get("sha256"):
        return "sha256"
    return next((key for key in SETTINGS if row.get(key) != other.get(key)), "")


def read(paths: Iterable[Path | str], *, force: bool = False) -> Results:
    """Return the rows of all files as points of named curves.

    Of two rows for one point the later wins. Rows that differ in SETTINGS do not stand in one
    table, and one label is one file: ConfigError, or with `force` curves apart, named by what
    differs, and `Results.mixed`.
    """
    notes: list[str] = []
    points: dict[tuple[Any, ...], Point] = {}
    for path in map(Path, paths):
        for line in _lines(path, notes):
            point = Point(line.row, line.where)
            key = (*point.curve, point.steps, float(point.temperature))
            if earlier := points.pop(key, None):
                notes.append(
                    f"{line.where} repeats {earlier.source} ({point.model}, {point.steps} "
                    f"steps, T = {point.temperature:g}); the later one counts."
                )
            points[key] = point
    results = Results(list(points.values()), notes)
    _name_curves(results, force)
    return results


def _lines(path: Path, notes: list[str]) -> list[rows.Line]:
    """Return a file's rows; note lines that are no JSON, refuse any other."""
    remedy = "name a results file that `mdlm-mcd sweep` wrote"
    with border(f"{path} cannot be read", remedy):
        found = rows.lines(path, f"{path.name}, line")
    for line in found:
        if line.fault and line.is_json:
            raise ConfigError(f"{line.fault}: write it again with `mdlm-mcd sweep`.")
        if line.fault:
            notes.append(f"{line.where} is cut short or corrupt, and was passed over.")
    found = [line for line in found if not line.fault]
    if not found:
        raise ConfigError(f"{path} holds no row of results: {remedy}.")
    return found


def _values(points: Iterable[Point], key: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(p, key)) for p in points))


def _name_curves(results: Results, force: bool) -> None:
    """Name the curves by what tells them apart; refuse what must not stand side by side."""
    points, changed = results.points, set()
    first: dict[str, Point] = {}
    for p in points:
        for other in (points[0], first.setdefault(p.model, p)):
            key = clash(other.row, p.row)
            if key and not force:
                raise ConfigError(
                    f"{p.source} has {key} {shown(getattr(p, key))} where {other.source} has "
                    f"{shown(getattr(other, key))}: such figures are not compared; report them "
                    "apart, under another label for another checkpoint, or mark them with --force."
                )
            if key == "sha256":
                changed.add(p.model)
    results.mixed |= {k: found for k in SETTINGS if len(found := _values(points, k)) > 1}
    results.notes += [
        f"The checkpoint of {model} changed under the same name; its versions are kept apart "
        "by their sha256."
        for model in sorted(changed)
    ]
    apart = [k for k in VARIANT if len(_values(points, k)) > 1]
    for i, point in enumerate(points):
        extra = [_setting(point, key) for key in (*apart, *results.mixed)]
        if point.model in changed:
            extra.append(str(point.sha256)[:8])
        points[i] = replace(point, name=", ".join([point.model, *filter(None, extra)]))


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
