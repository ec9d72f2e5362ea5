"""The families of hosts, recognised by what they offer.

A loaded module and a folder of sources are compared with the same names and parameters,
so what `mdlm-mcd patch` accepts is what the adapter can train. Light: no torch, no host
module is imported here.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError, border


@dataclass(frozen=True, eq=False)
class HostSpec:
    """One family of host code bases.

    adapter: the module of ours for it; modules: where its models are loaded from, a
    clone's first; sources: files of a clone that define them; models: the classes that
    students are made of, by the parameterization of what they train; needed: methods of the
    masked one by which the host is recognised, and the parameters that each begins with: a
    fork that gives other ones (blocks, contexts) trains other models under the same
    names; predictors: the host's own values of
    `sampling.predictor`, by parameterization; patch: what makes its main.py train our classes.
    """

    name: str
    adapter: str
    modules: tuple[str, ...]
    sources: tuple[str, ...]
    models: dict[str, str]
    needed: dict[str, tuple[str, ...]]
    predictors: dict[str, tuple[str, ...]]
    patch: str

    def missing_attributes(self, module: ModuleType) -> list[str]:
        """Return what a loaded module of models does not offer (empty: it fits)."""
        model = getattr(module, self.models["subs"], None)
        methods = {name: getattr(model, name, None) for name in self.needed}
        offered = [(n, _loaded_parameters(m)) for n, m in methods.items() if callable(m)]
        return self._missing(model is not None, offered)

    def missing_on_disk(self, folder: Path) -> list[str]:
        """Return the same of a clone, whose sources are read and not run."""
        missing = [n for n in ("main.py", *self.sources) if not (folder / n).is_file()]
        sources = [] if missing else [folder / name for name in self.sources]
        defined = [node for path in sources for node in ast.walk(_parsed(path))]
        classes = {node.name for node in defined if isinstance(node, ast.ClassDef)}
        methods = [node for node in defined if isinstance(node, ast.FunctionDef)]
        offered = [(node.name, _parameters(node)) for node in methods]
        return missing or self._missing(self.models["subs"] in classes, offered)

    def _missing(self, has_model: bool, offered: Iterable[tuple[str, list[str]]]) -> list[str]:
        """Return what lacks; of a method that is there, the parameters wanted and its own."""
        model, found = self.models["subs"], defaultdict(list)
        for name, parameters in offered:
            found[name].append(parameters)
        lacks = [] if has_model else [model]
        for name, wanted in self.needed.items():
            if not any(p[: len(wanted)] == [*wanted] for p in found[name]):
                lacks.append(f"{model}.{name}")
                if found[name]:
                    lacks[-1] += f"({', '.join(wanted)}, ...) but ({', '.join(found[name][0])})"
        return lacks


def fit_algo(overrides: Iterable[str], folder: Path) -> list[str]:
    """Return overrides with `algo=` as the configs of a clone take it.

    Where they have no such group (MDLM, unpatched on disk) it has to be added, as
    `+algo=`; where they have one Hydra refuses the plus.
    """
    config = folder / "configs" / "config.yaml"
    text = config.read_text(encoding="utf-8-sig", errors="replace") if config.is_file() else ""
    algo = "algo=" if re.search(r"^\s*- *(override +)?/?algo *:", text, re.M) else "+algo="
    return [re.sub(r"^\+?algo=", algo, override) for override in overrides]


def _parsed(path: Path) -> ast.Module:
    with border(f"{path} cannot be read as Python", "mend it"):
        return ast.parse(path.read_bytes(), path)


def _parameters(method: ast.FunctionDef) -> list[str]:
    """Return the names of a method's parameters but for self, `*` before keyword-only ones."""
    given = method.args
    only = [a.arg for a in given.kwonlyargs]
    return [a.arg for a in (*given.posonlyargs, *given.args)][1:] + ["*"] * bool(only) + only


def _loaded_parameters(method) -> list[str]:
    """Return the same of a method that is loaded."""
    found = list(inspect.signature(method).parameters.values())[1:]
    only = [p.name for p in found if p.kind is p.KEYWORD_ONLY]
    positional = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return positional + ["*"] * bool(only) + only


DUO = HostSpec(
    name="Duo",
    adapter="duo",
    modules=("algo", "mdlm_mcd.minihost.algo"),
    sources=("algo.py", "trainer_base.py"),
    models={"subs": "MDLM", "mean": "DUO_BASE"},
    needed={
        "_process_model_input": ("x0", "valid_tokens"),
        "_process_sigma": ("sigma",),
        "_sigma_from_alphat": ("alpha_t",),
        "_get_parameters": (),
        "_loss": ("x0",),
        "nll": ("x0",),
        "forward": ("xt", "sigma"),
    },
    predictors={
        "subs": ("ancestral_cache", "analytic", "psi"),
        "mean": ("ancestral", "psi"),
    },
    patch="duo.patch",
)

MDLM = HostSpec(
    name="MDLM",
    adapter="mdlm",
    modules=("diffusion",),
    sources=("diffusion.py",),
    models={"subs": "Diffusion"},
    needed={
        "_maybe_sub_sample": ("x0", "attention_mask"),
        "_process_sigma": ("sigma",),
        "_subs_parameterization": ("logits", "xt"),
        "_loss": ("x0", "attention_mask"),
        "forward": ("x", "sigma"),
        "q_xt": ("x", "move_chance"),
    },
    predictors={"subs": ("ddpm_cache", "ddpm", "analytic"), "mean": ()},
    patch="mdlm.patch",
)

SPECS = (DUO, MDLM)


def of_folder(folder: str | Path) -> HostSpec:
    """Find the spec of a clone.

    Raises ConfigError listing what was looked for and not found.
    """
    folder, missing = Path(folder), []
    for spec in SPECS:
        lacks = spec.missing_on_disk(folder)
        if not lacks:
            return spec
        missing.append(f"for {spec.name}'s spec it lacks {', '.join(lacks)}")
    raise ConfigError(
        f"{folder} holds no host this plugin knows ({'; '.join(missing)}): name the "
        "folder of a clone of Duo or MDLM, where its main.py is (docs/hosts.md lists the forks "
        "that fit)."
    )


def packages(folder: Path) -> set[str]:
    """Return the top-level packages that a clone's main.py cannot start without.

    What it and the clone's modules behind it import when they are loaded; not what stands
    in functions, or in `try`.
    """
    found: set[str] = set()
    files = [folder / "main.py"]
    for path in files:  # which grows
        names: list[str] = []
        for node in _parsed(path).body:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
        for top in {name.partition(".")[0] for name in names}:
            own = [p for p in (folder / f"{top}.py", *folder.glob(f"{top}/*.py")) if p.is_file()]
            files += [p for p in own if p not in files]
            found |= set() if own else {top}
    return found
