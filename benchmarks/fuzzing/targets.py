"""What is fuzzed: each kind of input, how it is made wrong, and who reads it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mdlm_mcd import configs_dir, distillers, hosts
from mdlm_mcd.checkpoints import weights
from mdlm_mcd.commands import export
from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation import candidates, embedded, report, sweep

from . import held, mutations, runs, seeds

OURS = (MCDError, ConfigError)
# Hydra's refusal of an override it cannot parse or place, and the YAML parser's.
HYDRAS = (*OURS, HydraException, OmegaConfBaseException, yaml.YAMLError)
GPT2 = 50_257  # tokens, which the default range of gamma fits


@dataclass(frozen=True)
class Target:
    """read(folder, data, rng): whatever it raises but `refusals` is a bug."""

    seeds: Callable[[Path], list[bytes]]
    mutate: Callable[[random.Random, bytes, list[bytes]], bytes]
    read: Callable[[Path, bytes, random.Random, Path], None]
    refusals: tuple[type[Exception], ...] = OURS
    seconds: float = 60.0  # of the processor, ten times slower while lines are counted


def _export(path: Path, folder: Path, rng: random.Random) -> None:
    held = weights.read_weights(str(path), "CKPT")
    told = weights.model_sizes(held.config)
    given = {"model_length": 16, "n_heads": 2, "time_conditioning": False}
    if weights.ROTARY in held.state_dict:
        told["n_heads"] = None
    given = {k: v for k, v in given.items() if k not in told}
    which = rng.choice(("ema", "raw"))
    export.export(str(path), folder / "out", which, None, False, given)


def _file(name: str):
    def read(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        _export(path, folder, rng)
        if rng.random() < 0.3:
            candidates.open_model(candidates.Source.parse(str(path)))

    return read


def _folder(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    found = folder / "hf"
    found.mkdir()
    shutil.copyfile(home / "good.safetensors", found / "model.safetensors")
    table = b"weight_map" in data[:5000]
    name = "model.safetensors.index.json" if table else "config.json"
    (found / name).write_bytes(data)
    _export(found, folder, rng)


def _evaluator(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    path = folder / "judge.ckpt"
    path.write_bytes(data)
    embedded.open_model(path)


def _results(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    path = folder / "results.jsonl"
    path.write_bytes(data)
    force = rng.random() < 0.8
    try:
        report.write([path], folder / "report.html", force=force)
    finally:
        sweep.resumed(path)


def _overrides(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    given = [line for line in data.decode("utf-8", "replace").split("\n") if line]
    try:
        with seeds.composing() as compose:
            config = compose("config", [*seeds.tiny(home), *given])
    except Exception as error:  # Hydra's own, before any line of ours has run
        raise HydraException(str(error)) from error
    if not config.get("algo"):
        return  # `main.model_class` refuses it
    name = str(config.algo.get("_target_", ""))
    kinds = {f"{hosts.__name__}.{k}": k for k in hosts.DISTILLERS}
    if name not in kinds:
        return  # what else it names is the user's to run
    cls = getattr(hosts, kinds[name])
    cls.check_config(config)
    if issubclass(cls, distillers.DCD):
        # Its range of gamma is held against a vocabulary, for which a model with no
        # network will do; the others ask theirs of the tokenizer.
        cls.check_model(SimpleNamespace(config=config, vocab_size=GPT2))


def _recipe(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    """A YAML file of a user's own on Hydra's search path."""
    (folder / "recipe").mkdir()
    (folder / "recipe" / "fuzzed.yaml").write_bytes(data)
    given = (f"hydra.searchpath=[file://{folder}]", "+recipe=fuzzed")
    _overrides(folder, "\n".join(("algo=mcd", *given)).encode(), rng, home)


def _recipes(folder: Path) -> list[bytes]:
    own = configs_dir() / "recipe"
    return [path.read_bytes() for path in sorted(own.glob("mcd_*.yaml"))]


def _judges(folder: Path) -> list[bytes]:
    return [held.saved(seeds.minihost(folder, name)) for name in ("ar", "mdlm")]


TARGETS = {
    "checkpoint": Target(seeds.checkpoints, mutations.of_checkpoint, _file("x.ckpt")),
    "safetensors": Target(seeds.safetensors, mutations.of_safetensors, _file("x.safetensors")),
    "folder": Target(seeds.documents, mutations.of_document, _folder),
    "evaluator": Target(_judges, mutations.of_checkpoint, _evaluator),
    "resume": Target(runs.resumed, held.mutate, runs.resume),
    "eval": Target(runs.sampled, held.mutate, runs.sample),
    "results": Target(seeds.results, mutations.of_lines, _results),
    "overrides": Target(seeds.overrides, mutations.of_words, _overrides, HYDRAS),
    "recipe": Target(_recipes, mutations.of_bytes, _recipe, HYDRAS),
}
