"""`mdlm-mcd doctor`: what a bug report needs, and what would stop a run.

An unpatched host is a stop, although `mdlm-mcd run` patches it in memory: one command
mends it. Hardware that is missing is a note, since only `mdlm-mcd run` helps there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf, open_dict

from .. import configs_dir
from ..checkpoints.files import expanded
from ..checkpoints.weights import check_process, model_sizes, read_weights
from ..errors import ConfigError, MCDError
from ..hosts import patches, resolve_model_class, specs, stubs
from ..hosts.specs import HostSpec
from ..settings import hydra_errors
from . import versions

OK, NOTE, STOP = "ok", "note", "STOP"


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
    text = "default: ., and where that is no clone, only versions and devices"
    parser.add_argument("path", nargs="?", metavar="PATH", help=text)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of the run in question")
    parser.epilog = "Example: mdlm-mcd doctor . algo.teacher_path=mdlm.ckpt"
    parser.set_defaults(call=call)


def call(args) -> int:
    text, status = report(examine(args.path, args.overrides))
    print(text)
    return status


def examine(folder: str | Path | None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return everything the report says, as far as the folder is a host and the algo ours."""
    asked, folder, found = folder, Path(folder or ".").resolve(), list[Finding]()

    def check(topic: str, call: Callable[..., str], *given) -> bool:
        """Note what is fine, or the sentence that is raised; return whether nothing stops."""
        mark = OK
        try:
            text = call(*given)
        except MCDError as error:
            mark, text = NOTE if isinstance(error, Note) else STOP, str(error)
        found.append(Finding(topic, mark, text))
        return mark != STOP

    check("versions", check_versions)
    check("devices", check_devices)
    check("flash-attn", check_flash_attn)
    check("hydra", check_plugin, folder)
    is_host = asked is not None or (folder / "main.py").exists()
    if not (is_host and check("host", check_host, folder)):
        return found
    spec = specs.of_folder(folder)
    check("packages", check_packages, folder)
    if check("main.py", check_main, folder, spec):
        check("patch", check_patch, folder, spec)
    try:
        config = compose(folder, overrides)
        mixin = distiller_of(config)
        check("algo", check_algo, config, mixin, spec, overrides)
        if mixin:
            check("precision", check_precision, config)
            check("data", check_data, config, folder)
            check("checkpoint", check_checkpoint, config, mixin, folder, overrides)
    except Exception as error:  # whatever Hydra has against the overrides
        error = hydra_errors.explain(error) or error
        text = " ".join(str(error).split()) or type(error).__name__
        found.append(Finding("config", STOP, text))
    return found


def compose(folder: Path, given: Sequence[str]):
    """Compose the host's config with the overrides, unresolved, as its main.py would.

    Where they name no algo it is algo=mcd.
    """
    # The hosts' own, registered by their main.py; `eval` is left out on purpose.
    own = dict(cwd=lambda: str(folder), device_count=lambda: 1, div_up=lambda x, y: -(-x // y))
    for name, resolver in own.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    ours = [] if any(arg.lstrip("+").startswith("algo=") for arg in given) else ["algo=mcd"]
    given = specs.fit_algo([*ours, *given], folder)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(folder / "configs"), version_base=None):
        config = hydra.compose("config", overrides=given, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # from which the checks take the known keys
    with open_dict(config):
        del config["hydra"]
    return config


def distiller_of(config) -> type | None:
    """Return the distiller of ours that `algo._target_` names."""
    from .. import distillers  # Lightning may be what is broken here: then that is a finding

    package, _, name = config.algo.get("_target_", "").rpartition(".")
    return getattr(distillers, name, None) if package == "mdlm_mcd.hosts" else None


# Checks: each returns what is fine, or raises the sentence of what is not -----------------


def check_versions() -> str:
    return ", ".join(map(" ".join, versions().items())) + f", on {platform.system()}"


def check_devices() -> str:
    if not torch.cuda.is_available():
        kind = "Apple GPU (mps)" if torch.backends.mps.is_available() else "CPU"
        way = "start with `mdlm-mcd run`, which makes the host's device settings fit"
        raise Note(f"{kind}, no CUDA: {way}")
    kind = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{kind}, CUDA {torch.version.cuda}"


def check_flash_attn() -> str:
    if not importlib.util.find_spec("flash_attn"):
        way = "`mdlm-mcd run` supplies a stand-in"
        raise Note(f"missing, so python main.py cannot import its models: {way}")
    return "installed"


def check_plugin(folder: Path) -> str:
    found = Plugins.instance().discover(SearchPathPlugin)
    if not any(p.__module__ == "hydra_plugins.mdlm_mcd_searchpath" for p in found):
        spec = importlib.util.find_spec("hydra_plugins")
        remedy = "install with `pip install .`"
        if spec and spec.origin:
            remedy = f"delete {spec.origin}, which makes `hydra_plugins` a plain package"
        raise ConfigError(f"does not see the plugin: {remedy}")
    own = folder / "configs" / "algo" / "mcd.yaml"
    if own.exists():
        raise Note(f"sees the plugin, but {own} of the host wins over ours")
    return f"sees algo=mcd in {configs_dir()}"


def check_host(folder: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    text = f"{specs.of_folder(folder).name}'s spec in {folder}"
    if not shutil.which("git") or git("rev-parse", "--show-toplevel") != str(folder):
        return f"{text}, no git checkout"
    branch, commit = (git("rev-parse", how, "HEAD") for how in ("--abbrev-ref", "--short"))
    edited = ", ".join(git("diff", "--name-only", "HEAD").splitlines())
    return f"{text}, git branch {branch}, commit {commit}, edited: {edited or 'nothing'}"


def check_packages(folder: Path) -> str:
    needed = sorted(specs.packages(folder) - stubs.PACKAGES.keys())
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the host imports {', '.join(missing)}, not installed here: install its own "
            "requirements"
        )
    return "those the host imports are installed"


def check_main(folder: Path, spec: HostSpec) -> str:
    patches.changes(folder, spec, only="main.py")
    return "the patch fits, or is there"


def check_patch(folder: Path, spec: HostSpec) -> str:
    if not patches.changes(folder, spec):
        return "applied: python main.py trains algo=mcd"
    raise ConfigError(
        "not applied, so python main.py does not train algo=mcd: run `mdlm-mcd patch "
        f"{folder}` once, or start with `mdlm-mcd run` in place of `python main.py`"
    )


def check_algo(config, mixin: type | None, spec: HostSpec, overrides: Sequence[str]) -> str:
    """Make the checks of the student's class, in the same words, without its host."""
    algo = config.algo
    if mixin is None:
        text = f"algo.name={algo.get('name')} is none of ours"
        raise (Note if any("algo=" in arg for arg in overrides) else ConfigError)(text)
    resolve_model_class(mixin, spec)
    adapter = importlib.import_module(f"{specs.__package__}.{spec.adapter}")
    student = adapter.student(mixin, object)
    student.check_config(config).check_max_steps(config.trainer.max_steps)
    return f"loss {algo.loss}, {algo.rounds} rounds of {algo.steps_per_round} steps"


def check_precision(config) -> str:
    precision = str(config.trainer.precision)
    if precision in ("16-true", "bf16-true", "transformer-engine"):
        raise ConfigError(
            f"trainer.precision={precision} keeps the weights in half precision, where "
            "steps of optim.lr vanish: use bf16 (or 32) instead"
        )
    return f"trainer.precision={precision}; the loss is in float32"


def check_data(config, folder: Path) -> str:
    """Look at where the host keeps tokenized text: by default on its authors' cluster."""
    cache = OmegaConf.select(config, "data.cache_dir")
    path = folder / str(cache or ".")
    if not os.access(next(p for p in (path, *path.parents) if p.exists()), os.W_OK):
        raise ConfigError(f"data.cache_dir={cache} cannot be made here: give data.cache_dir=FOLDER")
    return f"data.cache_dir={cache}"


def check_checkpoint(config, mixin: type, folder: Path, overrides: Sequence[str]) -> str:
    """Open the checkpoint of the configured mode."""
    from ..distillers import start

    train = config.mode == "train"
    key = "algo.teacher_path" if train else "eval.checkpoint_path"
    path = str(start.teacher_path(config) if train else config.eval.checkpoint_path or "")
    if not path:
        stops = overrides and config.algo.init_from != "scratch"
        raise (ConfigError if stops else Note)(f"none named: give {key}=CHECKPOINT")
    # As the run would find it: from the host's folder, wherever we were called.
    local = folder / expanded(path, key)
    by_folder = not train and "hf_dit" in (config.algo.get("backbone"), config.get("backbone"))
    if by_folder or (train and not config.algo.teacher_path):  # which the host opens itself
        key = "training.finetune_path" if train else key
        if not os.path.isabs(path) and (train or local.exists()):
            why = "hosts look for it in the run's folder: give an absolute path"
            raise ConfigError(f"{key}={path}: {why}")
    elif not train and local.exists():
        start.check_evaluated(str(local))
    weights = read_weights(str(local) if local.exists() else path, key)
    check_process(weights, f"{key}={path}", mixin.parameterization)
    if train:
        length = model_sizes(weights.config).get("model_length")
        start.check_length(length, config, f"{key}={path}")
    alone = weights.shadow_params is None and not weights.is_final
    if alone and train and config.algo.init_from == "ema":
        raise ConfigError(f"{path} holds no EMA: set algo.init_from=raw")
    average = "with EMA" if weights.shadow_params else "without EMA"
    return f"{path}: {len(weights.state_dict)} tensors, {average}, step {weights.global_step}"


def report(found: Sequence[Finding]) -> tuple[str, int]:
    """Return (the screen to print, the exit status: 1 where something would stop a run)."""
    wrap = textwrap.TextWrapper(88, break_long_words=False, break_on_hyphens=False)
    wrap.subsequent_indent = " " * 16
    lines = []
    for topic, mark, text in found:
        lines += wrap.wrap(f"{mark:<4} {topic:<11}{text}")
    stops = {f.topic for f in found if f.mark == STOP}
    lacks = {f.topic for f in found if f.mark == NOTE} & {"devices", "flash-attn"}
    ways = ("python main.py", stops | lacks), ("mdlm-mcd run", stops - {"patch"})
    for way, reasons in ways if "host" in {f.topic for f in found} else ():
        verdict = f"would stop: {', '.join(sorted(reasons))}" if reasons else "ready"
        lines.append(f"{way:<15} {verdict}")
    return "\n".join(lines), int(bool(stops))
