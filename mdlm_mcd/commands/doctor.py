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
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from .. import __version__, configs_dir
from ..checkpoints.files import expanded
from ..errors import ConfigError, MCDError
from ..hosts import patches, specs, stubs
from ..hosts.specs import DUO, MDLM, HostSpec

OK, NOTE, STOP = "ok", "note", "STOP"

PACKAGES = (
    "torch lightning transformers hydra-core omegaconf torchmetrics numpy datasets safetensors"
).split()


class Finding(NamedTuple):
    """One line of the report: OK, NOTE (worth knowing) or STOP (ends a run)."""

    topic: str
    mark: str
    text: str


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


def _checked(topic: str, check: Callable[[], str | Finding]) -> Finding:
    """Run a check, which returns what is fine or raises the sentence that is not."""
    try:
        found = check()
    except MCDError as error:
        return Finding(topic, STOP, str(error))
    return found if isinstance(found, Finding) else Finding(topic, OK, found)


# The machine and the folder -----------------------------------------------------------


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


def _host(folder: Path, spec: HostSpec) -> str:
    kind = ""
    if spec is DUO:
        kind = " as on branch " + ("main" if specs.takes_labels(folder) else "ch-1")
    text = f"{spec.name}'s spec{kind} in {folder}"
    if _git(folder, "rev-parse", "--show-toplevel") != str(folder):
        return f"{text}, no git checkout"
    text += f", git branch {_git(folder, 'rev-parse', '--abbrev-ref', 'HEAD')}"
    text += f", commit {_git(folder, 'rev-parse', '--short', 'HEAD')}"
    edited = _git(folder, "diff", "--name-only", "HEAD").split()
    return f"{text}, edited: {', '.join(edited)}" if edited else text


def _requirements(folder: Path) -> str:
    needed = sorted(specs.packages(folder) - stubs.PACKAGES.keys())
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the host imports {', '.join(missing)}, not installed here: install its own "
            "requirements"
        )
    return "those the host imports are installed"


def _patch(folder: Path, spec: HostSpec) -> str:
    if not patches.changes(folder, spec):
        return "applied: python main.py trains algo=mcd"
    raise ConfigError(
        "not applied, so python main.py does not train algo=mcd: run `mdlm-mcd patch "
        f"{folder}` once, or start with `mdlm-mcd run` in place of `python main.py`"
    )


def _plugin(folder: Path) -> str | Finding:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    try:
        found = Plugins.instance().discover(SearchPathPlugin)
    except Exception as error:  # some other plugin's, and every Hydra program's end
        raise ConfigError(
            f"a plugin of Hydra fails when it is loaded ({error}): uninstall it"
        ) from error
    if not any(p.__module__ == "hydra_plugins.mdlm_mcd_searchpath" for p in found):
        spec = importlib.util.find_spec("hydra_plugins")
        where = list(spec.submodule_search_locations) if spec else []
        raise ConfigError(
            f"does not see the plugin: {spec.origin} makes `hydra_plugins` a plain package "
            "and hides all others: delete that file"
            if spec and spec.origin
            else "does not see the plugin: it is not in "
            f"{', '.join(where) or 'any folder of sys.path'}: install with `pip install .`"
        )
    own = folder / "configs" / "algo" / "mcd.yaml"
    if own.exists():
        return Finding("hydra", NOTE, f"sees the plugin, but {own} of the host wins over ours")
    return f"sees algo=mcd in {configs_dir()}"


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        kind = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        yield Finding("devices", OK, f"{kind}, CUDA {torch.version.cuda}")
    else:
        kind = "Apple GPU (mps)" if torch.backends.mps.is_available() else "CPU"
        way = "start with `mdlm-mcd run`, which makes the host's device settings fit"
        yield Finding("devices", NOTE, f"{kind}, no CUDA: {way}")
    if importlib.util.find_spec("flash_attn"):
        yield Finding("flash-attn", OK, _version("flash-attn"))
    else:
        text = "missing, so python main.py cannot import its models: `mdlm-mcd run` supplies a"
        yield Finding("flash-attn", NOTE, f"{text} stand-in")


# The configured run -------------------------------------------------------------------


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


def _distiller(config) -> type:
    """Return the mixin that `algo._target_` names; MCD where it names none of ours."""
    from .. import distillers

    name = str(config.algo.get("_target_", "")).rpartition(".")[2]
    return getattr(distillers, name if name in distillers.__all__ else "MCD")


def _settings(config, folder: Path, spec: HostSpec) -> Iterator[Finding]:
    """Check the configured run against its distiller, by the checks the run makes."""
    from omegaconf import OmegaConf

    from ..distillers.settings import check_schedule
    from ..evaluation import candidates
    from ..hosts import resolve_model_class, sampling

    mixin = _distiller(config)
    trained = _checked("algo", lambda: resolve_model_class(mixin, spec))
    if trained.mark == STOP:
        yield trained
        return
    adapter = importlib.import_module(f"{specs.__package__}.{spec.adapter}")
    masked, predictor = mixin.parameterization == "subs", config.sampling.predictor
    # The student's class without its host: the same checks, in the same words.
    student = adapter.student(mixin, object)
    ch_1 = spec is DUO and not specs.takes_labels(folder)

    def check_predictor():
        kind, fits = sampling.fitting(spec, mixin.parameterization)
        if ch_1:  # all that this branch lets through
            fits = (*sampling.ours(spec), "ancestral_cache") if masked else ("ancestral",)
        sampling.check_predictor(predictor, kind, fits)
        return f"sampling.predictor={predictor}"

    def check_noise():
        # Plain containers of the parts that say it.
        parts = {"noise": OmegaConf.to_container(config.noise)}
        if spec is MDLM:
            parts["parameterization"] = config.parameterization
        alpha = candidates.schedule(parts, "The host's config")
        check_schedule(alpha, config.noise.type, config.algo.name)
        return f"noise.type={config.noise.type}"

    def check_precision():
        precision = str(config.trainer.precision)
        if precision in ("16-true", "bf16-true", "transformer-engine"):
            raise ConfigError(
                f"trainer.precision={precision} keeps the weights in half precision, where "
                "steps of optim.lr vanish: use bf16 (or 32) instead"
            )
        return f"trainer.precision={precision}; the loss is in float32"

    def check_algo():
        student.check_config(config).check_max_steps(config.trainer.max_steps)
        rounds = f"{config.algo.get('rounds')} rounds of {config.algo.get('steps_per_round')} steps"
        return f"loss {config.algo.get('loss')}, {rounds}"

    def check_sampling():
        wide = config.sampling.get("use_float64", True)
        if wide and predictor in sampling.ours(spec):
            return "the plugin samples in float64"
        if wide and spec is DUO and not ch_1:
            return "the host samples in float64"
        return Finding(
            "sampling",
            NOTE,
            "this model is sampled in float32, which lowers entropy and flatters "
            "generative perplexity: compare only figures of the same dtype",
        )

    yield _checked("predictor", check_predictor)
    if masked:  # else the method brings its own
        yield _checked("noise", check_noise)
    yield _checked("precision", check_precision)
    yield _checked("algo", check_algo)
    yield _checked("sampling", check_sampling)


def _weights(config, folder: Path, asked: bool) -> Finding:
    return _checked("checkpoint", lambda: _checkpoint(config, folder, asked))


def _checkpoint(config, folder: Path, asked: bool) -> str | Finding:
    """Open the checkpoint of the configured mode."""
    from ..checkpoints.weights import check_process, read_weights

    train = config.mode == "train"
    key, path = "eval.checkpoint_path", config.eval.checkpoint_path
    if train:
        key, path = "algo.teacher_path", config.algo.teacher_path
    if train and not path:
        key, path = "training.finetune_path", config.training.get("finetune_path") or ""
        if path and not os.path.isabs(path):
            why = "hosts look for it in the run's folder: give an absolute path"
            raise ConfigError(f"{key}={path}: {why}")
    path = str(path)
    if not path:
        mark = STOP if asked and config.algo.init_from != "scratch" else NOTE
        return Finding("checkpoint", mark, "none named: give algo.teacher_path=CHECKPOINT")
    # As the run would find it: from the host's folder, wherever we were called.
    local = folder / expanded(path, key)
    weights = read_weights(str(local) if local.exists() else path, key)
    check_process(weights, f"{key}={path}", _distiller(config).parameterization)
    alone = weights.shadow_params is None and not weights.is_final
    if alone and train and config.algo.init_from == "ema":
        raise ConfigError(f"{path} holds no EMA: set algo.init_from=raw")
    average = "with EMA" if weights.shadow_params else "without EMA"
    return f"{path}: {len(weights.state_dict)} tensors, {average}, step {weights.global_step}"


# The report ---------------------------------------------------------------------------


def examine(folder: str | Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return everything the report says, in its order."""
    folder = Path(folder).resolve()
    versions = ", ".join(f"{p} {_version(p)}" for p in PACKAGES)
    system = f"Python {platform.python_version()} on {platform.system()}"
    found = [
        Finding("versions", OK, f"mdlm-mcd {__version__}, {system}, {versions}"),
        *_devices(),
        _checked("hydra", lambda: _plugin(folder)),
    ]
    try:
        spec = specs.of_folder(folder)
    except MCDError as error:
        return [*found, Finding("host", STOP, str(error))]
    found += [
        _checked("host", lambda: _host(folder, spec)),
        _checked("packages", lambda: _requirements(folder)),
        _checked("patch", lambda: _patch(folder, spec)),
    ]
    patched = found[-1].mark == OK
    try:
        config = compose(folder, spec, overrides, patched)
        if "mdlm_mcd" not in config.algo.get("_target_", ""):
            mark = OK if any("algo=" in arg for arg in overrides) else STOP
            text = f"algo.name={config.algo.get('name')} is none of ours"
            return [*found, Finding("algo", mark, text)]
        found += _settings(config, folder, spec)
        found.append(_weights(config, folder, asked=bool(overrides)))
    except Exception as error:  # whatever Hydra has against the overrides
        from ..settings import hydra_errors

        error = hydra_errors.explain(error) or error
        text = " ".join(str(error).split()) or type(error).__name__
        found.append(Finding("config", STOP, text))
    return found


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
