"""Import arrows point down: the floors of the house, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mdlm_mcd"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Rooms of one floor may import one another; only a cycle of modules is refused.
FLOORS = {
    "__init__": 0,
    "errors": 0,
    "coupling": 1,
    "laws": 1,
    "curriculum": 1,
    "losses": 1,
    "head": 1,
    "duality": 1,
    "models": 2,
    "checkpoints": 3,
    "sampling": 4,
    "settings": 4,
    "minihost": 5,
    "distillers": 6,
    "evaluation": 6,
    "hosts": 7,
    "commands": 8,
}
PAPER = [name for name, floor in FLOORS.items() if floor == 1]
FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "transformers"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module(path) for path in MODULES}


def imports(path: Path, nested: bool = True):
    """Absolute names of what a module imports."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(path: Path, nested: bool = True):
    """Modules of this package that a module imports."""
    for name in imports(path, nested):
        while name not in NAMES and "." in name:
            name = name.rpartition(".")[0]
        if name in NAMES:
            yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_arrow_points_up(path):
    here = room(path)
    assert here in FLOORS, f"{here} is on no floor: name it in FLOORS"
    for name in ours(path):
        target = name.split(".")[1] if "." in name else "__init__"
        assert FLOORS[target] <= FLOORS[here], f"{here} imports {name}"


def test_there_is_no_cycle():
    arrows = {module(path): set(ours(path, nested=False)) for path in MODULES}
    while leaves := {name for name, to in arrows.items() if not to - {name}}:
        arrows = {name: to - leaves for name, to in arrows.items() if name not in leaves}
    # A package that offers its modules' names is imported with each of them.
    assert not arrows


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda p: p.stem)
def test_the_package_knows_no_benchmark(path):
    assert not any(
        path.stem in name.split(".")
        for p in MODULES
        for name in imports(p)
        if not name.startswith("mdlm_mcd") and name.split(".")[0] == path.stem
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lower_floors_do_not_know_the_frameworks(path):
    if FLOORS[room(path)] <= 1 or room(path) == "sampling":
        assert not {name.split(".")[0] for name in imports(path)} & FRAMEWORKS


@pytest.mark.parametrize("name", [n for n in PAPER if n != "head"])
def test_the_paper_needs_torch_alone(name):
    tops = {n.split(".")[0] for n in imports(PACKAGE / f"{name}.py")}
    standard = {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "hashlib",
        "math",
        "typing",
    }
    assert tops <= standard | {"torch", "mdlm_mcd"}


def test_distillers_know_no_host():
    for path in (PACKAGE / "distillers").rglob("*.py"):
        found = {n for n in ours(path) if n.startswith(("mdlm_mcd.minihost", "mdlm_mcd.hosts"))}
        assert not found, f"{path.name} imports {found}"
