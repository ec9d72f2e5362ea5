"""The families of hosts, recognised by what they offer.

A loaded module and a folder of sources are compared with the same names, so what
`mdlm-mcd patch` accepts is what the adapter can train. Light: no torch, no host module
is imported here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError


@dataclass(frozen=True, eq=False)
class HostSpec:
    """One family of host code bases.

    adapter: the module of ours for it; modules: the host's modules of models, each with
    its module of loaders, those of a clone first; model: the class that students are
    made of; needed: methods by which it is recognised; sources: files of a clone in
    which class and methods are found; patch: what makes its main.py train our classes;
    predictors: its own values of `sampling.predictor` that fit masked models;
    uniform_model, uniform_predictors: as model and predictors, for uniform-state
    models, if there are any; has_algo: whether its configs have a group `algo` before
    they are patched.
    """

    name: str
    adapter: str
    modules: dict[str, str]
    model: str
    needed: tuple[str, ...]
    sources: tuple[str, ...]
    patch: str
    predictors: tuple[str, ...]
    uniform_model: str | None = None
    uniform_predictors: tuple[str, ...] = ()
    has_algo: bool = True

    @property
    def models(self) -> dict[str, str | None]:
        """Return classes by the parameterization of what they train."""
        return {"subs": self.model, "mean": self.uniform_model}

    def missing_attributes(self, module: ModuleType) -> list[str]:
        """Return what a loaded module of models does not offer (empty: it fits)."""
        model = getattr(module, self.model, None)
        if model is None:
            return [self.model]
        return [f"{self.model}.{n}" for n in self.needed if not hasattr(model, n)]

    def missing_on_disk(self, folder: Path) -> list[str]:
        """Return the same of a clone, whose sources are read and not run."""
        missing = [n for n in ("main.py", *self.sources) if not (folder / n).is_file()]
        if missing:
            return missing
        defined = {
            node.name
            for name in self.sources
            for node in ast.walk(_parse(folder / name))
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        wanted = {self.model: f"class {self.model}"}
        wanted |= {n: f"{self.model}.{n}" for n in self.needed}
        return [shown for name, shown in wanted.items() if name not in defined]

    def fit_algo(self, overrides: Iterable[str], patched: bool) -> list[str]:
        """Return overrides with `algo=` as the host's configs take it.

        Where they have no such group it has to be added, as `+algo=`; where they have
        one Hydra refuses the plus. patched: on disk, which gives MDLM the group.
        """
        algo = "algo=" if self.has_algo or patched else "+algo="
        return [re.sub(r"^\+?algo=", algo, override) for override in overrides]


def _parse(path: Path) -> ast.AST:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ConfigError(
            f"{path} cannot be read as Python (line {error.lineno}: {error.msg}): "
            "restore the file, for example with `git checkout`."
        ) from error


DUO = HostSpec(
    name="Duo",
    adapter="duo",
    modules={"algo": "dataloader", "mdlm_mcd.minihost.algo": "mdlm_mcd.minihost.dataloader"},
    model="MDLM",
    needed=(
        "_process_model_input",
        "_process_sigma",
        "_sigma_from_alphat",
        "_get_parameters",
        "_loss",
        "nll",
    ),
    sources=("algo.py", "trainer_base.py"),
    patch="duo.patch",
    predictors=("ancestral_cache", "analytic", "psi"),
    uniform_model="DUO_BASE",
    uniform_predictors=("ancestral", "psi"),
)

MDLM = HostSpec(
    name="MDLM",
    adapter="mdlm",
    modules={"diffusion": "dataloader"},
    model="Diffusion",
    needed=("_maybe_sub_sample", "_process_sigma", "_subs_parameterization", "_loss", "q_xt"),
    sources=("diffusion.py",),
    patch="mdlm.patch",
    predictors=("ddpm_cache", "ddpm", "analytic"),
    has_algo=False,
)

SPECS = (DUO, MDLM)


def takes_labels(folder: Path) -> bool:
    """Return whether a Duo clone is as on branch main (class labels), not as on ch-1."""
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name == "nll"
        and any(a.arg == "labels" for a in node.args.args)
        for node in ast.walk(_parse(folder / "trainer_base.py"))
    )


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
        "folder of a clone of Duo or MDLM, where its main.py is."
    )
