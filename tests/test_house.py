"""Imports point down the floors of the house, and name what pyproject.toml declares."""

import ast
import functools
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, BENCHMARKS = ROOT / "mdlm_mcd", ROOT / "benchmarks"
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")])

# Rooms of one floor may import one another; only a cycle of modules is refused.
PAPER = ["coupling", "laws", "curriculum", "losses", "head", "duality"]
FLOORS = [
    ["__init__", "errors"],
    PAPER,
    ["models"],
    ["checkpoints"],
    ["sampling", "settings"],
    ["minihost"],
    ["distillers", "evaluation"],
    ["hosts"],
    ["commands"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "transformers"}
DISTRIBUTIONS = {"hydra": "hydra-core", "mauve": "mauve-text"}  # where names differ


def module(path, root=ROOT):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parsed(path, nested):
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path, root=ROOT, nested=True):
    """Absolute names that a file imports; nested: also in functions, `try` and `if`."""
    package = path.relative_to(root).parent.parts
    for node in parsed(path, nested):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def tops(path, **how):
    return {name.partition(".")[0] for name in imports(path, **how)} - sys.stdlib_module_names


def arrows(paths, root=ROOT, **how):
    """{module: modules among these that it imports}."""
    paths = {module(path, root): path for path in paths}
    found = {name: set() for name in paths}
    for name, path in paths.items():
        for target in imports(path, root, **how):
            while target not in paths and "." in target:
                target = target.rpartition(".")[0]
            found[name] |= {target} & paths.keys()
    return found


def room(name):
    return (name.split(".") + ["__init__"])[1]


def test_arrows_point_down():
    found = arrows(PACKAGE.rglob("*.py"))
    assert {room(name) for name in found} <= FLOOR.keys()
    assert not [(a, b) for a, to in found.items() for b in to if FLOOR[room(b)] > FLOOR[room(a)]]
    # Distillers know no host.
    targets = {room(b) for a, to in found.items() if room(a) == "distillers" for b in to}
    assert "head" in targets and not targets & {"minihost", "hosts", "evaluation", "commands"}


def test_there_is_no_cycle():
    for paths, root in ((PACKAGE.rglob("*.py"), ROOT), (BENCHMARKS.rglob("*.py"), BENCHMARKS)):
        left = arrows(paths, root, nested=False)
        while leaves := {name for name, to in left.items() if not to - {name}}:
            left = {name: to - leaves for name, to in left.items() if name not in leaves}
        assert not left


def test_what_is_not_imported():
    own = {path.stem for path in BENCHMARKS.iterdir()} | {"benchmarks", "tests"}
    assert not [path for path in FILES if tops(path) & own]
    assert not [path for path in BENCHMARKS.rglob("*.py") if "tests" in tops(path)]
    for path in PACKAGE.rglob("*.py"):
        if FLOOR[room(module(path))] <= 1 or "sampling" in path.parts[-2:]:
            assert not tops(path) & FRAMEWORKS, path
    for name in PAPER:
        assert tops(PACKAGE / f"{name}.py") <= {"torch", "mdlm_mcd"}


def test_no_file_is_too_long():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 400]


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.match(r"[\w-]+", r)[0].replace("_", "-") for r in requirements}

    def imported(nested):
        found = set().union(*(tops(path, nested=nested) for path in FILES))
        found -= {"mdlm_mcd", "hydra_plugins"}
        return {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in found}

    extras = project["optional-dependencies"]
    needed = names(project["dependencies"])
    optional = names(r for name, of in extras.items() if name != "test" for r in of)
    assert imported(nested=False) <= needed
    assert imported(nested=True) <= needed | optional
