"""`mdlm-mcd doctor`: what a bug report needs, and what would stop a run.

An unpatched host is a stop, although `mdlm-mcd run` patches it in memory: one command
mends it. Hardware that is missing is a note, since only `mdlm-mcd run` helps there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from .. import __version__, configs_dir
from ..checkpoints.files import expanded
from ..errors import MCDError
from ..hosts import patches, specs
from ..hosts.specs import DUO, MDLM, HostSpec, of_folder, packages, takes_labels
from ..hosts.stubs import packages as stub_packages

OK, NOTE, STOP = "ok", "note", "STOP"

PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "numpy",
    "datasets",
    "safetensors",
)


class Finding(NamedTuple):
    """One line of the report: OK, NOTE (worth knowing) or STOP (ends a run)."""

    topic: str
    mark: str
    text: str


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True
        )
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _host(folder: Path, spec: HostSpec) -> Finding:
    kind = ""
    if spec is DUO:
        kind = " as on branch " + ("main" if takes_labels(folder) else "ch-1")
    said = f"{spec.name}'s spec{kind} in {folder}"
    if _git(folder, "rev-parse", "--show-toplevel") == str(folder):
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
        commit = _git(folder, "rev-parse", "--short", "HEAD")
        said += f", git branch {branch}, commit {commit}"
        edited = _git(folder, "diff", "--name-only", "HEAD").split()
        if edited:
            said += f", edited: {', '.join(edited)}"
    else:
        said += ", no git checkout"
    return Finding("host", OK, said)


def _requirements(folder: Path) -> Finding:
    stood_in = set(stub_packages.SENTENCES)
    missing = sorted(
        name for name in packages(folder) - stood_in if importlib.util.find_spec(name) is None
    )
    if not missing:
        return Finding("packages", OK, "those the host imports are installed")
    return Finding(
        "packages",
        STOP,
        f"the host imports {', '.join(missing)}, not installed here: install its own requirements",
    )


def _patch(folder: Path, spec: HostSpec) -> Finding:
    hunks = patches.of(spec)
    try:
        now, where = patches.state(patches.read(folder, hunks), hunks)
        if now == patches.CONFLICT:
            raise patches.conflict(folder, spec, where)
    except MCDError as error:
        return Finding("patch", STOP, str(error))
    if now == patches.PATCHED:
        return Finding("patch", OK, "applied: python main.py trains algo=mcd")
    return Finding(
        "patch",
        STOP,
        "not applied, so python main.py does not train algo=mcd: run `mdlm-mcd patch "
        f"{folder}` once, or start with `mdlm-mcd run` in place of `python main.py`",
    )


def _plugin(folder: Path) -> Finding:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    try:
        found = Plugins.instance().discover(SearchPathPlugin)
    except Exception as error:  # some other plugin's, and every Hydra program's end
        said = f"a plugin of Hydra fails when it is loaded ({error}): uninstall it"
        return Finding("hydra", STOP, said)
    if not any(p.__module__ == "hydra_plugins.mdlm_mcd_searchpath" for p in found):
        spec = importlib.util.find_spec("hydra_plugins")
        where = list(spec.submodule_search_locations) if spec else []
        why = (
            f"{spec.origin} makes `hydra_plugins` a plain package and hides all "
            "others: delete that file"
            if spec and spec.origin
            else f"it is not in {', '.join(where) or 'any folder of sys.path'}: "
            "install with `pip install .`"
        )
        return Finding("hydra", STOP, f"does not see the plugin: {why}")
    own = folder / "configs" / "algo" / "mcd.yaml"
    if own.exists():
        return Finding("hydra", NOTE, f"sees the plugin, but {own} of the host wins over ours")
    return Finding("hydra", OK, f"sees algo=mcd in {configs_dir()}")


def _devices() -> Iterator[Finding]:
    import torch

    def said(count, kind):
        return f"{count} x {kind}"

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        what = said(count, torch.cuda.get_device_name(0))
        yield Finding("devices", OK, f"{what}, CUDA {torch.version.cuda}")
    else:
        kind = "Apple GPU (mps)" if torch.backends.mps.is_available() else "CPU"
        yield Finding(
            "devices",
            NOTE,
            f"{kind}, no CUDA: start with `mdlm-mcd run`, which makes the host's "
            "device settings fit",
        )
    real = importlib.util.find_spec("flash_attn")
    yield (
        Finding("flash-attn", OK, _version("flash-attn"))
        if real
        else Finding(
            "flash-attn",
            NOTE,
            "missing, so python main.py cannot import its models: `mdlm-mcd run` "
            "supplies a stand-in",
        )
    )


def _fitted(spec: HostSpec, given: Sequence[str], patched: bool) -> list[str]:
    """The overrides as the host's main.py would take them, with an algo of ours."""
    given = list(given)
    if not any(arg.lstrip("+").startswith("algo=") for arg in given):
        given.insert(0, "algo=mcd")
    if spec is MDLM and not patched:
        given = ["+" + arg if arg.startswith("algo=") else arg for arg in given]
    return given


def compose(folder: Path, spec: HostSpec, given: Sequence[str], patched: bool):
    """The host's config with the overrides, unresolved, as its main.py would see it."""
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
    HydraConfig.instance().set_config(config)  # tells the checks which keys are known
    with open_dict(config):
        del config["hydra"]
    return config


def _said(error: Exception, given: Sequence[str], folder: Path) -> str:
    from ..settings import hydra_errors

    if hydra_errors.is_hydras(error):
        error = hydra_errors.explain(error, given, folder / "configs")
    return " ".join(str(error).split()) or type(error).__name__


def _sampling(config, folder: Path, spec: HostSpec) -> Finding:
    from ..hosts.duo import Host

    wide = config.sampling.get("use_float64", True)
    if wide and config.sampling.predictor in Host.samplers:
        return Finding("sampling", OK, "the plugin samples in float64")
    if wide and spec is DUO and takes_labels(folder):
        return Finding("sampling", OK, "the host samples in float64")
    return Finding(
        "sampling",
        NOTE,
        "this model is sampled in float32, which lowers entropy and flatters "
        "generative perplexity: compare only figures of the same dtype",
    )


def _checked(topic: str, check, fine: str) -> Finding:
    """What a check of ours says, or that it is fine."""
    try:
        check()
    except MCDError as error:
        return Finding(topic, STOP, str(error))
    return Finding(topic, OK, fine)


def _distiller(config):
    """The mixin that `algo._target_` names; MCD where it names none of ours."""
    from .. import distillers

    name = str(config.algo.get("_target_", "")).rpartition(".")[2]
    return getattr(distillers, name if name in distillers.__all__ else "MCD")


def _settings(config, folder: Path, spec: HostSpec) -> Iterator[Finding]:
    """Whether the configured run fits its distiller, by the checks the run makes."""
    from omegaconf import OmegaConf

    from ..distillers.rng import check_schedule
    from ..evaluation import candidates
    from ..hosts import resolve_model_class, sampling

    mixin = _distiller(config)
    try:
        resolve_model_class(mixin, spec)
    except MCDError as error:
        yield Finding("algo", STOP, str(error))
        return
    adapter = importlib.import_module(f"{specs.__package__}.{spec.adapter}")
    masked = mixin.parameterization == "subs"
    kind, fits = adapter.Host.fitting(mixin.parameterization)
    if spec is DUO and not takes_labels(folder):
        # All that ch-1 lets through.
        fits = (*adapter.Host.samplers, "ancestral_cache") if masked else ("ancestral",)
    predictor = config.sampling.predictor
    yield _checked(
        "predictor",
        lambda: sampling.check_predictor(predictor, kind, fits),
        f"sampling.predictor={predictor}",
    )

    def schedule():
        # Plain containers of the parts that say it.
        said = {"noise": OmegaConf.to_container(config.noise)}
        if spec is MDLM:
            said["parameterization"] = config.parameterization
        alpha = candidates.schedule(said, "The host's config")
        check_schedule(alpha, config.noise.type, config.algo.name)

    if masked:  # else the method brings its own
        yield _checked("noise", schedule, f"noise.type={config.noise.type}")

    precision = str(config.trainer.precision)
    if precision in ("16-true", "bf16-true", "transformer-engine"):
        yield Finding(
            "precision",
            STOP,
            f"trainer.precision={precision} keeps the weights in half precision, where "
            "steps of optim.lr vanish: use bf16 (or 32) instead",
        )
    else:
        yield Finding("precision", OK, f"trainer.precision={precision}; the loss is in float32")

    # The student's class without its host: the same checks, in the same words.
    student = type("Student", (adapter.Host, mixin), {})
    algo = config.algo
    yield _checked(
        "algo",
        lambda: student.check_config(config).check_max_steps(config.trainer.max_steps),
        f"loss {algo.get('loss')}, {algo.get('rounds')} rounds of "
        f"{algo.get('steps_per_round')} steps",
    )


def _weights(config, folder: Path, asked: bool) -> Finding:
    """The checkpoint of the configured mode, opened."""
    from ..checkpoints.weights import check_process, read_weights

    if config.mode != "train":
        key, path = "eval.checkpoint_path", config.eval.checkpoint_path
    else:
        key, path = "algo.teacher_path", config.algo.teacher_path
        if not path:
            key = "training.finetune_path"
            path = config.training.get("finetune_path") or ""
            if path and not os.path.isabs(path):
                said = "hosts look for it in the run's folder: give an absolute path"
                return Finding("checkpoint", STOP, f"{key}={path}: {said}")
    path = str(path)
    if not path:
        return Finding(
            "checkpoint",
            STOP if asked and config.algo.init_from != "scratch" else NOTE,
            "none named: give algo.teacher_path=CHECKPOINT",
        )
    # As the run would find it: from the host's folder, wherever we were called.
    try:
        local = folder / expanded(path, key)
        weights = read_weights(str(local) if local.exists() else path, key)
        check_process(weights, f"{key}={path}", _distiller(config).parameterization)
    except MCDError as error:
        return Finding("checkpoint", STOP, str(error))
    average = "with EMA" if weights.shadow_params else "without EMA"
    alone = weights.shadow_params is None and not weights.is_final
    if alone and config.mode == "train" and config.algo.init_from == "ema":
        said = f"{path} holds no EMA: set algo.init_from=raw"
        return Finding("checkpoint", STOP, said)
    return Finding(
        "checkpoint",
        OK,
        f"{path}: {len(weights.state_dict)} tensors, {average}, step {weights.global_step}",
    )


def examine(folder: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """Everything the report says, in its order."""
    folder = Path(folder).resolve()
    versions = ", ".join(f"{p} {_version(p)}" for p in PACKAGES)
    found = [
        Finding(
            "versions",
            OK,
            f"mdlm-mcd {__version__}, Python {platform.python_version()} on "
            f"{platform.system()}, {versions}",
        ),
        *_devices(),
        _plugin(folder),
    ]
    try:
        spec = of_folder(folder)
    except MCDError as error:
        return [*found, Finding("host", STOP, str(error))]
    patch = _patch(folder, spec)
    found += [_host(folder, spec), _requirements(folder), patch]
    patched = patch.mark == OK
    try:
        config = compose(folder, spec, overrides, patched)
        if "mdlm_mcd" not in config.algo.get("_target_", ""):
            mark = OK if any("algo=" in arg for arg in overrides) else STOP
            said = f"algo.name={config.algo.get('name')} is none of ours"
            return [*found, Finding("algo", mark, said)]
        found += _settings(config, folder, spec)
        found.append(_sampling(config, folder, spec))
        found.append(_weights(config, folder, asked=bool(overrides)))
    except Exception as error:  # whatever Hydra has against the overrides
        said = _said(error, _fitted(spec, overrides, patched), folder)
        found.append(Finding("config", STOP, said))
    return found


def report(found: Sequence[Finding]) -> tuple[str, int]:
    """(the screen to print, the exit status: 1 where something would stop a run)."""
    import textwrap

    lines = []
    for topic, mark, text in found:
        head = f"{mark:<4} {topic:<11}"
        lines += textwrap.wrap(
            text,
            88,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    stops = {f.topic for f in found if f.mark == STOP}
    lacks = {f.topic for f in found if f.mark == NOTE} & {"devices", "flash-attn"}
    for way, reasons in (("python main.py", stops | lacks), ("mdlm-mcd run", stops - {"patch"})):
        said = f"would stop: {', '.join(sorted(reasons))}" if reasons else "ready"
        lines.append(f"{way:<15} {said}")
    return "\n".join(lines), int(bool(stops))
