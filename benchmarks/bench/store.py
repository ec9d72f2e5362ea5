"""Rows of finished measurements, as JSON lines, in a folder a version of the code."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mdlm_mcd.checkpoints.files import make_folder, read_json, write_json
from mdlm_mcd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

# What decides the figures: floors 1 to 3, the minihost with its adapter, the configs
# and what measures. Tables and reports may change; figures stand.
DECIDES = (
    *(
        f"mdlm_mcd/{name}.py"
        for name in (
            "coupling",
            "losses",
            "curriculum",
            "duality",
            "laws",
            "head",
            "teacher",
            "weights",
        )
    ),
    "mdlm_mcd/sampling/**/*.py",
    "mdlm_mcd/distillers/**/*.py",
    *(
        f"mdlm_mcd/evaluation/{name}.py"
        for name in ("bounds", "candidate", "diversity", "evaluators", "intervals", "metrics")
    ),
    *(f"mdlm_mcd/hosts/{name}.py" for name in ("common", "duo", "minihost", "samplers")),
    "mdlm_mcd/minihost/**/*.py",
    "mdlm_mcd/minihost/configs/**/*.yaml",
    "configs/algo/*.yaml",
    "configs/recipe/laptop_*.yaml",
    "configs/layouts/duo/host/*.yaml",
    *(
        f"benchmarks/bench/{name}.py"
        for name in ("jobs", "language", "methods", "setting", "sizes", "train")
    ),
)


def code_version(root: Path = ROOT) -> str:
    """12 hex digits over the sources that decide the figures, and their names."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in DECIDES for p in root.glob(pattern)}):
        digest.update(str(path.relative_to(root).as_posix()).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def claim(out: Path, version: str, name: str) -> tuple[Path, str | None]:
    """The folder of this version's figures in `out`, and what to say of others.

    Raises ConfigError for a file, or for a folder of another version itself.
    """
    make_folder(out)
    held = read_json(out / "version.json", None)
    if held is not None:
        raise ConfigError(
            f"--out {out} holds the figures of code version {held['version']} "
            f"themselves: name the folder above it, {out.parent}, where each version "
            "has its own."
        )
    folder = out / f"{version}-{name}"
    others = sorted(p.parent.name for p in out.glob("*/version.json") if p.parent != folder)
    make_folder(folder)
    write_json(folder / "version.json", {"version": version, "name": name})
    if not others:
        return folder, None
    return folder, (
        f"{out} also holds figures of other code or settings ({', '.join(others)}), "
        f"which stay as they are; these go to {folder.name}."
    )


class Store:
    """`rows.jsonl` of a folder."""

    def __init__(self, folder: Path):
        self.path = folder / "rows.jsonl"

    def rows(self) -> list[dict]:
        """All whole rows; a line that an interruption cut short is passed over."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_bytes().decode("utf-8", "replace").split("\n"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            found.append(row)
        return found

    def _of(self, job) -> list[dict]:
        mine = (job.part, job.what, job.seed)
        return [r for r in self.rows() if (r["part"], r["method"], r["seed"]) == mine]

    def done(self, job) -> set:
        """Points of a job that were measured."""
        from .jobs import Point

        return {
            Point(r["steps"], r["law"], r["round"]) for r in self._of(job) if "stopped" not in r
        }

    def is_stopped(self, job) -> bool:
        return any("stopped" in r for r in self._of(job))

    def add(self, job, point, facts: dict) -> None:
        """One whole line on the disk, or none; workers write to the same file."""
        row = {"part": job.part, "method": job.what, "seed": job.seed}
        if point is not None:
            row |= {"steps": point.steps, "law": point.law, "round": point.round}
        line = json.dumps(row | facts, ensure_ascii=False) + "\n"
        # A line that was cut short must not swallow this one.
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else "\n" + line
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())  # one call: lines of workers do not mix
            os.fsync(handle)
        finally:
            os.close(handle)


def note(folder: Path, minutes: float, machine: dict, parts: dict) -> None:
    """Add to what the page says of a folder: time, machines, the held-out text."""
    path = folder / "facts.json"
    facts = read_json(path, {"minutes": 0.0, "machines": [], "parts": {}})
    facts["minutes"] += minutes
    if machine not in facts["machines"]:
        facts["machines"].append(machine)
    facts["parts"] |= parts
    write_json(path, facts)
