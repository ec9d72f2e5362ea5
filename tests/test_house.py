"""Import arrows point down: the floors of the house, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mdlm_mcd"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "__init__": 0, "errors": 0,
    "coupling": 1, "curriculum": 1, "losses": 1, "duality": 1,
    "laws": 1, "uniform": 1,
    "sampling": 2, "head": 2, "teacher": 2, "files": 2, "rollout": 2,
    "weights": 2, "weight_files": 2, "pickles": 2, "archives": 2, "allowed": 2,
    "plain": 2, "sharding": 2, "borders": 2, "vocabulary": 2, "console": 2,
    "checkpoints": 2,
    "groups": 2.5,  # it knows Hydra, and no torch
    "minihost": 3, "distillers": 3, "evaluation": 3, "figures": 3,
    "hosts": 4,
    "cli": 5, "demo": 5, "__main__": 5,
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """Absolute names of what a module imports, nested imports included."""
    package = ["mdlm_mcd", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")]
            base = [part for part in base if part]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def ours(path: Path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mdlm_mcd":
            yield parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_arrow_points_up(path):
    here = name_of(path)
    assert here in FLOORS, f"{here} is on no floor: name it in FLOORS"
    for target in ours(path):
        if target == "minihost":
            assert here in ("hosts", "minihost"), "only adapters import host modules"
        elif here == "minihost":
            assert FLOORS.get(target, 0) < FLOORS[here], (
                f"the minihost imports {target}"
            )
        else:
            # Names of `mdlm_mcd/__init__` are on the ground floor.
            assert FLOORS.get(target, 0) <= FLOORS[here], f"{here} imports {target}"


FORBIDDEN = {
    1: {"lightning", "hydra", "omegaconf", "transformers", "pytorch_lightning"},
    2: {"lightning", "hydra", "omegaconf", "transformers", "pytorch_lightning"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lower_floors_do_not_know_the_frameworks(path):
    floor = FLOORS.get(name_of(path), 5)
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & FORBIDDEN.get(floor, set())


@pytest.mark.parametrize(
    "name", ["coupling", "laws", "curriculum", "losses", "duality", "uniform"]
)
def test_the_paper_needs_torch_alone(name):
    tops = {n.split(".")[0] for n in imports(PACKAGE / f"{name}.py")}
    standard = {"__future__", "collections", "dataclasses", "functools", "hashlib",
                "math", "typing"}  # fmt: skip
    assert tops <= standard | {"torch", "mdlm_mcd"}


def test_distillers_know_no_host_by_name():
    for path in (PACKAGE / "distillers").glob("*.py"):
        text = path.read_text().lower()
        assert not any(name in text for name in ("duo", "minihost"))
