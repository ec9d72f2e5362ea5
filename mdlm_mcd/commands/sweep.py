"""`mdlm-mcd sweep`: checkpoints of any host over a grid of steps and temperatures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from .. import __version__
from ..errors import ConfigError, first_line
from ..evaluation import candidates, embedded
from ..evaluation.candidates import Candidate
from ..evaluation.evaluators import CallableEvaluator, CausalLM, Evaluator
from ..evaluation.plan import Plan
from ..evaluation.sweep import Sweep

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "tokenizers", "numpy")
# Rows of held-out text: for the corpus's own figures as many as there are samples,
# twice, since one half of it is compared with the other.
MOST_ROWS = 4096


def versions() -> dict[str, str]:
    found = {"mdlm-mcd": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": kind,
    }


def commit(folder: str | Path | None) -> str | None:
    """Return the commit a folder stands at; None without a folder or git."""
    if folder is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def evaluator_name(name: str) -> str:
    """Return what rows call the evaluator that `--evaluator` names; none is opened."""
    if not name.endswith(".ckpt"):
        return name
    path = Path(name)
    return f"{path.parent.parent.name or 'AR'}/{path.stem} (minihost AR)"


def load_evaluator(name: str, device: str, batch_size: int):
    """Open a `CausalLM`, without the samples' tokenizer, or the embedded host's."""
    if not name.endswith(".ckpt"):
        return CausalLM.load(name, device=device, batch_size=batch_size)
    return embedded.open_model(name)[0].to(device)


def evaluator(
    name: str, device: str, batch_size: int, model: Candidate, load=load_evaluator
) -> Evaluator:
    """Return the evaluator for one model's samples.

    name: a checkpoint of the embedded host's AR model, or a causal language model of
    transformers, for which samples are decoded and encoded again. load: opens it; a
    cached one serves many models. Raises ConfigError.
    """
    judge = load(name, device, batch_size)
    if isinstance(judge, CausalLM):
        return judge.reading(model.tokenizer)
    if judge.config.algo.parameterization != "ar":
        raise ConfigError(
            f"--evaluator {name} is a model of parameterization="
            f"{judge.config.algo.parameterization}, which gives no text a likelihood "
            "from left to right: name one trained with algo=ar, or one of transformers."
        )
    vocabularies = [
        {index: token for token, index in of.get_vocab().items() if index != mask}
        for of, mask in ((judge.tokenizer, judge.mask_index), (model.tokenizer, model.mask_index))
    ]
    if judge.vocab_size != model.vocab_size or vocabularies[0] != vocabularies[1]:
        raise ConfigError(
            f"--evaluator {name} has a vocabulary of {judge.vocab_size}, and the model "
            f"{model.label} another of {model.vocab_size}: use an evaluator trained on "
            "the same tokenizer, or one of transformers."
        )
    if judge.config.model.length < model.length:
        raise ConfigError(
            f"--evaluator {name} was trained on {judge.config.model.length} tokens, "
            f"and the samples of {model.label} have {model.length}: use one trained on "
            "that length."
        )
    return CallableEvaluator(embedded.judge(judge), evaluator_name(name), batch_size=batch_size)


class HeldOut:
    """Read `models.held_out` once for each tokenizer and length of many models."""

    def __init__(self, source: candidates.Source, most: int, files: Sequence[str]):
        self.source, self.most, self.files = source, most, files
        self._texts: dict[tuple, Tensor] = {}

    def __call__(self, model: Candidate) -> Tensor:
        tokenizer = model.tokenizer
        fast = getattr(tokenizer, "backend_tokenizer", None)
        # A slow one does not say all that it does: it is itself alone.
        same = fast and (fast.to_str(), str(tokenizer.special_tokens_map))
        key = (same or tokenizer, model.length, model.vocab_size, model.mask_index)
        if key not in self._texts:
            self._texts[key] = candidates.held_out(self.source, model, self.most, self.files)
        return self._texts[key]


def measure(
    sources: Sequence[candidates.Source],
    plan: Plan,
    out: Path,
    *,
    judge: str,
    corpus: Sequence[str] = (),
    device: str = "cpu",
    host: str | None = None,
    rows: int | None = None,
    **how,
) -> list[dict[str, Any]]:
    """Measure every source at every point of a plan and return the rows.

    corpus: files of held-out text; without any, the first source's own validation
    split. rows: of that text. host: a clone, whose commit is noted. how: on_point and
    noise of `Sweep`. Raises ConfigError, CheckpointError.
    """
    labels = [source.label for source in sources]
    if twice := {x for x in labels if labels.count(x) > 1}:
        raise ConfigError(
            f"Two checkpoints are called {sorted(twice)[0]!r}: tell them apart with LABEL=CKPT."
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: no CUDA device is there; use cpu.")
    try:
        # Samples are drawn in it, and Apple's GPUs do not know it.
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"--device {device} cannot be used ({first_line(error)}); use cpu."
        ) from error
    if host is not None and not Path(host).is_dir():
        raise ConfigError(f"--host {host} is no folder: name a clone, or leave it out.")
    rows = rows or min(max(2 * plan.num_samples, plan.bound_rows), MOST_ROWS)
    return Sweep(
        plan,
        out,
        evaluator=partial(
            evaluator, judge, device, min(plan.batch_size, 16), load=cache(load_evaluator)
        ),
        evaluator_name=evaluator_name(judge),
        held_out=HeldOut(sources[0], rows, corpus),
        facts={"versions": versions(), "machine": machine(device), "commit": commit(host)},
        **how,
    ).run([partial(candidates.open_model, source, device) for source in sources])


def bars(console: Console | None, width: int) -> Progress:
    """Return bars with a description of that width, the time spent and the time left."""
    return Progress(
        TextColumn(f"{{task.description:<{width}}}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )


def sweep(sources, plan: Plan, out: Path, *, console: Console | None = None, **how):
    """`measure`, with its progress on the console."""
    with bars(console, 34) as progress:
        task = progress.add_task("opening", total=None)

        def on_point(done: float, total: float, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)

        return measure(sources, plan, out, on_point=on_point, **how)
