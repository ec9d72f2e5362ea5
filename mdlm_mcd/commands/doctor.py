"""`mdlm-mcd doctor`: what a bug report needs, and what would stop a run.

An unpatched host is a stop, although `mdlm-mcd run` patches it in memory: one command
mends it. Hardware that is missing is a note, since only `mdlm-mcd run` helps there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import textwrap
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__, configs_dir
from ..checkpoints.files import expanded
from ..errors import ConfigError, MCDError
from ..hosts import patches, specs
from ..hosts.specs import DUO, MDLM, HostSpec
from . import git, installed

OK, NOTE, STOP = "ok", "note", "STOP"

PACKAGES = (
    "torch lightning transformers hydra-core omegaconf torchmetrics numpy datasets safetensors"
).split()


class Finding(NamedTuple):
    """One line of the report: OK, NOTE (worth knowing) or STOP (ends a run)."""

    topic: str
    mark: str
    text: str


class Note(MCDError):
    """A check's sentence that is worth knowing and stops nothing."""


def configure(parser) -> None:
    parser.description = (
        "Looks at the host in PATH as `python main.py algo=mcd OVERRIDES` "
        "would find it. Ends with status 1 where something would stop the run that "
        "`mdlm-mcd run` does not mend, or where the patch is missing."
    )
    parser.add_argument("path", nargs="?", default=".", metavar="PATH")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of the run in question")
    parser.set_defaults(call=call)


def call(args) -> int:
    text, status = report(examine(args.path, args.overrides))
    print(text)
    return status


class Case:
    """What is examined: a host's folder, and the overrides of a run in it."""

    def __init__(self, folder: str | Path, overrides: Sequence[str] = ()):
        self.folder, self.overrides = Path(folder).resolve(), overrides

    @cached_property
    def spec(self) -> HostSpec:
        return specs.of_folder(self.folder)

    @cached_property
    def ch_1(self) -> bool:
        """Return whether the folder is Duo's branch ch-1."""
        return self.spec is DUO and not specs.takes_labels(self.folder)

    @cached_property
    def patched(self) -> bool:
        try:
            return not patches.changes(self.folder, self.spec)
        except MCDError:  # local edits, of which `check_patch` speaks
            return False

    @cached_property
    def config(self) -> Any:
        return compose(self.folder, self.spec, self.overrides, self.patched)

    @cached_property
    def mixin(self) -> type | None:
        """Return the distiller of ours that `algo._target_` names."""
        from .. import distillers

        package, _, name = self.config.algo.get("_target_", "").rpartition(".")
        return getattr(distillers, name, None) if package == "mdlm_mcd.hosts" else None


def _fitted(spec: HostSpec, given: Sequence[str], patched: bool) -> list[str]:
    """Return the overrides as the host's main.py would take them, with an algo of ours."""
    ours = [] if any(arg.lstrip("+").startswith("algo=") for arg in given) else ["algo=mcd"]
    return spec.fit_algo([*ours, *given], patched)


def compose(folder: Path, spec: HostSpec, given: Sequence[str], patched: bool):
    """Compose the host's config with the overrides, unresolved, as its main.py would."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    # The hosts' own, registered by their main.py; `eval` is left out on purpose.
    for name, resolver in (
        ("cwd", lambda: str(folder)),
        ("device_count", lambda: 1),
        ("div_up", lambda x, y: -(-x // y)),
    ):
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(folder / "configs"), version_base=None):
        given = _fitted(spec, given, patched)
        config = hydra.compose("config", overrides=given, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # from which the checks take the known keys
    with open_dict(config):
        del config["hydra"]
    return config


# Checks: each returns what is fine, or raises the sentence of what is not -----------------


def check_versions(case: Case) -> str:
    versions = ", ".join(f"{p} {installed(p) or 'missing'}" for p in PACKAGES)
    system = f"Python {platform.python_version()} on {platform.system()}"
    return f"mdlm-mcd {__version__}, {system}, {versions}"


def check_devices(case: Case) -> str:
    import torch

    if torch.cuda.is_available():
        kind = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        return f"{kind}, CUDA {torch.version.cuda}"
    kind = "Apple GPU (mps)" if torch.backends.mps.is_available() else "CPU"
    way = "start with `mdlm-mcd run`, which makes the host's device settings fit"
    raise Note(f"{kind}, no CUDA: {way}")


def check_flash_attn(case: Case) -> str:
    if found := installed("flash-attn"):
        return found
    text = "missing, so python main.py cannot import its models: `mdlm-mcd run` supplies a"
    raise Note(f"{text} stand-in")


def check_plugin(case: Case) -> str:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    found = Plugins.instance().discover(SearchPathPlugin)
    if not any(p.__module__ == "hydra_plugins.mdlm_mcd_searchpath" for p in found):
        spec = importlib.util.find_spec("hydra_plugins")
        remedy = "install with `pip install .`"
        if spec and spec.origin:
            remedy = f"delete {spec.origin}, which makes `hydra_plugins` a plain package"
        raise ConfigError(f"does not see the plugin: {remedy}")
    own = case.folder / "configs" / "algo" / "mcd.yaml"
    if own.exists():
        raise Note(f"sees the plugin, but {own} of the host wins over ours")
    return f"sees algo=mcd in {configs_dir()}"


def check_host(case: Case) -> str:
    folder = case.folder
    text = f"{case.spec.name}'s spec in {folder}"
    if case.spec is DUO:
        text = f"Duo's spec as on branch {'ch-1' if case.ch_1 else 'main'} in {folder}"
    if git(folder, "rev-parse", "--show-toplevel") != str(folder):
        return f"{text}, no git checkout"
    branch, commit = (git(folder, "rev-parse", how, "HEAD") for how in ("--abbrev-ref", "--short"))
    edited = ", ".join(git(folder, "diff", "--name-only", "HEAD").split())
    return f"{text}, git branch {branch}, commit {commit}, edited: {edited or 'nothing'}"


def check_packages(case: Case) -> str:
    from ..hosts import stubs

    needed = sorted(specs.packages(case.folder) - stubs.PACKAGES.keys())
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the host imports {', '.join(missing)}, not installed here: install its own "
            "requirements"
        )
    return "those the host imports are installed"


def check_patch(case: Case) -> str:
    if not patches.changes(case.folder, case.spec):
        return "applied: python main.py trains algo=mcd"
    raise ConfigError(
        "not applied, so python main.py does not train algo=mcd: run `mdlm-mcd patch "
        f"{case.folder}` once, or start with `mdlm-mcd run` in place of `python main.py`"
    )


def check_algo(case: Case) -> str:
    """Make the checks of the student's class, in the same words, without its host."""
    from ..hosts import resolve_model_class

    config, algo = case.config, case.config.algo
    if case.mixin is None:
        text = f"algo.name={algo.get('name')} is none of ours"
        raise (Note if any("algo=" in arg for arg in case.overrides) else ConfigError)(text)
    resolve_model_class(case.mixin, case.spec)
    adapter = importlib.import_module(f"{specs.__package__}.{case.spec.adapter}")
    student = adapter.student(case.mixin, object)
    student.check_config(config).check_max_steps(config.trainer.max_steps)
    return f"loss {algo.loss}, {algo.rounds} rounds of {algo.steps_per_round} steps"


def check_noise(case: Case) -> str:
    from omegaconf import OmegaConf

    from ..distillers.settings import check_schedule
    from ..evaluation import candidates

    config = case.config
    if case.mixin.parameterization == "subs":  # else the method brings its own
        parts = {"noise": OmegaConf.to_container(config.noise)}
        if case.spec is MDLM:
            parts["parameterization"] = config.parameterization
        alpha = candidates.schedule(parts, "The host's config")
        check_schedule(alpha, config.noise.type, config.algo.name)
    return f"noise.type={config.noise.type}"


def check_precision(case: Case) -> str:
    precision = str(case.config.trainer.precision)
    if precision in ("16-true", "bf16-true", "transformer-engine"):
        raise ConfigError(
            f"trainer.precision={precision} keeps the weights in half precision, where "
            "steps of optim.lr vanish: use bf16 (or 32) instead"
        )
    return f"trainer.precision={precision}; the loss is in float32"


def check_sampling(case: Case) -> str:
    from ..hosts import sampling

    how = case.config.sampling
    wide = how.predictor in sampling.ours(case.spec) or (case.spec is DUO and not case.ch_1)
    text = f"sampling.predictor={how.predictor}, which samples in"
    if wide and how.get("use_float64", True):
        return f"{text} float64"
    raise Note(
        f"{text} float32: that lowers entropy and flatters generative perplexity, so compare "
        "only figures of the same dtype"
    )


def check_checkpoint(case: Case) -> str:
    """Open the checkpoint of the configured mode."""
    from ..checkpoints.weights import check_process, read_weights
    from ..distillers import start

    config, train = case.config, case.config.mode == "train"
    key = "algo.teacher_path" if train else "eval.checkpoint_path"
    path = str(start.teacher_path(config) if train else config.eval.checkpoint_path or "")
    if not path:
        stops = case.overrides and config.algo.init_from != "scratch"
        raise (ConfigError if stops else Note)(f"none named: give {key}=CHECKPOINT")
    if train and not config.algo.teacher_path and not os.path.isabs(path):
        why = "hosts look for it in the run's folder: give an absolute path"
        raise ConfigError(f"training.finetune_path={path}: {why}")
    # As the run would find it: from the host's folder, wherever we were called.
    local = case.folder / expanded(path, key)
    weights = read_weights(str(local) if local.exists() else path, key)
    check_process(weights, f"{key}={path}", case.mixin.parameterization)
    alone = weights.shadow_params is None and not weights.is_final
    if alone and train and config.algo.init_from == "ema":
        raise ConfigError(f"{path} holds no EMA: set algo.init_from=raw")
    average = "with EMA" if weights.shadow_params else "without EMA"
    return f"{path}: {len(weights.state_dict)} tensors, {average}, step {weights.global_step}"


# The report, in its order.
CHECKS: dict[str, Callable[[Case], str]] = {
    "versions": check_versions,
    "devices": check_devices,
    "flash-attn": check_flash_attn,
    "hydra": check_plugin,
    "host": check_host,
    "packages": check_packages,
    "patch": check_patch,
    "algo": check_algo,
    "noise": check_noise,
    "precision": check_precision,
    "sampling": check_sampling,
    "checkpoint": check_checkpoint,
}


def examine(folder: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return everything the report says, as far as the folder is a host and the algo ours."""
    case, found = Case(folder, overrides), []
    try:
        for topic in CHECKS:
            found.append(finding(topic, case))
            if (topic, found[-1].mark) == ("host", STOP) or (topic == "algo" and not case.mixin):
                break
    except Exception as error:  # whatever Hydra has against the overrides
        from ..settings import hydra_errors

        error = hydra_errors.explain(error) or error
        text = " ".join(str(error).split()) or type(error).__name__
        found.append(Finding("config", STOP, text))
    return found


def finding(topic: str, case: Case) -> Finding:
    try:
        return Finding(topic, OK, CHECKS[topic](case))
    except MCDError as error:
        return Finding(topic, NOTE if isinstance(error, Note) else STOP, str(error))


def report(found: Sequence[Finding]) -> tuple[str, int]:
    """Return (the screen to print, the exit status: 1 where something would stop a run)."""
    wrap = textwrap.TextWrapper(88, break_long_words=False, break_on_hyphens=False)
    wrap.subsequent_indent = " " * 16
    lines = []
    for topic, mark, text in found:
        lines += wrap.wrap(f"{mark:<4} {topic:<11}{text}")
    stops = {f.topic for f in found if f.mark == STOP}
    lacks = {f.topic for f in found if f.mark == NOTE} & {"devices", "flash-attn"}
    for way, reasons in (("python main.py", stops | lacks), ("mdlm-mcd run", stops - {"patch"})):
        verdict = f"would stop: {', '.join(sorted(reasons))}" if reasons else "ready"
        lines.append(f"{way:<15} {verdict}")
    return "\n".join(lines), int(bool(stops))
