"""Train a small teacher and its judge on English, measure them beside tables, export them.

    python benchmarks/teacher.py [--out teacher]

Text is the prose in docstrings of installed packages (`data=prose`); every figure is of the
same held-out rows. Goes on where it stopped. OUT/assets has both in bfloat16, with their
tokenizer, the part of the text that is Python's own, and a card: the package's own assets.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from bench.tables import held_out, nats, tables
from omegaconf import OmegaConf
from paper.compose import embedded as composed
from safetensors import safe_open
from safetensors.torch import save_file

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.checkpoints.files import make_folder, read_json, write_json, write_text
from mdlm_mcd.commands import export, stages
from mdlm_mcd.minihost import corpus, dataloader
from mdlm_mcd.minihost import main as entry
from mdlm_mcd.settings import console, hydra_errors

RECIPES = {
    "teacher": ("algo=mdlm", "+recipe=text_teacher"),
    "judge": ("algo=ar", "+recipe=text_judge"),
}
COMMON = (
    "callbacks=[checkpoint_every_n_steps,lines]",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=200",
    "trainer.limit_val_batches=8",
    "+trainer.enable_model_summary=false",
)
ROWS = 1024  # held-out, of the figures
SAMPLES, STEPS = 8, 128
EVALUATOR = ("gen_ppl_eval_model_name_or_path", "perplexity_batch_size")


def parsed(argv=None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="teacher.py", description=__doc__.partition("\n")[0])
    add = made.add_argument
    add("--out", type=Path, default=Path("teacher"), help="folder of checkpoints and assets")
    add("--rows", type=int, default=ROWS, help="held-out rows of the figures")
    add("overrides", nargs="*", help="of both trainings, as in trainer.max_steps=100")
    return made.parse_args(argv)


def train(name: str, out: Path, overrides, say) -> tuple[Path, float]:
    """Train by the recipe, from where it stopped; return checkpoint and seconds."""
    given = [*RECIPES[name], *COMMON, *overrides]
    steps = composed(given).trainer.max_steps
    clock, began = out / f"{name}.json", time.monotonic()
    before = read_json(clock, {"seconds": 0.0})["seconds"]

    def on_step(step):
        write_json(clock, {"seconds": before + time.monotonic() - began})

    say(f"{name}: {steps} steps")
    folder, log = make_folder(out / name), out / f"{name}.log"
    checkpoint = stages.train(folder, given, steps, log, on_step=on_step)
    return checkpoint, read_json(clock, {"seconds": before})["seconds"]


def exported(name: str, checkpoint: Path, model, tokenizer, folder: Path) -> dict:
    """Write a model in bfloat16 with its tokenizer; return what identifies it."""
    shutil.rmtree(folder, ignore_errors=True)
    if name == "teacher":  # in the layout of the released models
        export.export(str(checkpoint), folder)
        for file in (*folder.glob("*.py"), folder / "README.md"):
            file.unlink()
        config = read_json(folder / "config.json", {})
        config.pop("auto_map")  # without the code that runs elsewhere
        config |= {"torch_dtype": "bfloat16", "mask_index": model.mask_index}
        with safe_open(folder / "model.safetensors", "pt") as file:
            notes = file.metadata()
    else:
        folder.mkdir(parents=True)
        whole = OmegaConf.to_container(model.config, resolve=True)
        config = {key: whole[key] for key in ("algo", "model", "noise", "training", "sampling")}
        config["eval"] = {k: whole["eval"][k] for k in EVALUATOR}
        config["data"] = {k: v for k, v in whole["data"].items() if k != "cache_dir"}
        notes = {"format": "pt"}
    tensors = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    halves = {k: v if "inv_freq" in k else v.bfloat16() for k, v in tensors.items()}
    save_file(halves, folder / "model.safetensors", notes)
    write_json(folder / "config.json", config)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"  # by a name that all releases of transformers know
    write_json(file, read_json(file, {}) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    count = sum(p.numel() for p in model.backbone.parameters())
    size = (folder / "model.safetensors").stat().st_size
    return {"parameters": count, "bytes": size, "sha256": identity.sha256(halves)}


def texts(data, folder: Path) -> None:
    """Write the text of Python alone, as documents of `data=textfile`, for `data=shipped`."""
    for mode in ("train", "valid"):
        found = corpus.documents(OmegaConf.create({**data, "packages": []}), mode)
        write_text(make_folder(folder) / f"{mode}.txt", "\n\n\n".join(found) + "\n")


def card(found: Mapping, packages) -> str:
    lines = [
        "# A small teacher and its judge\n",
        "A masked diffusion model (`teacher`) and a left-to-right model (`judge`) of English, in "
        "bfloat16, made by `make teacher`; they share a tokenizer.\n",
        f"They learned {found['characters'] / 1e6:.1f}M characters of prose out of docstrings, one "
        "module in twenty left out. Sources and licences: "
        + "; ".join(f"{name} {version} ({licence})" for name, (version, licence) in packages)
        + ".\n",
        "`text` is the part that comes from Python's own modules, held-out text apart: Copyright "
        "Python Software Foundation, under the PSF License "
        "(https://docs.python.org/3/license.html), shortened to sentences.\n",
        f"On {found['rows']} held-out rows of {found['length']} tokens (vocabulary of "
        f"{found['vocabulary']}), nats per token:\n",
        "| | nats | parameters | steps | minutes |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| unigram table | {found['tables']['unigram']:.3f} | | | |",
        f"| bigram table, add {found['tables']['added']} | {found['tables']['bigram']:.3f} | | | |",
    ]
    for name, title in (("teacher", "teacher (NELBO)"), ("judge", "judge")):
        m = found[name]
        lines.append(
            f"| {title} | {m['nats']:.3f} ± {m['error']:.3f} | {m['parameters']:,} "
            f"| {m['steps']:,} | {m['seconds'] / 60:.0f} |"
        )
    lines += [f"\n{name}: SHA-256 of its tensors {found[name]['sha256']}." for name in RECIPES]
    lines += ["\nThe recipes are `text_teacher` and `text_judge` in `configs/recipe/`.\n"]
    lines += [f"Samples of the teacher in {STEPS} steps:\n", "```text"]
    lines += ["\n---\n".join(found["samples"]), "```\n"]
    return "\n".join(lines)


def licences(packages) -> list[tuple[str, tuple[str, str]]]:
    """Return (name, (version, licence)) of Python and of each package of the text."""
    named = {"transformers": "Apache-2.0", "matplotlib": "the Matplotlib licence, of PSF's kind"}
    found = [("Python", (sys.version.split()[0], "PSF"))]
    return found + [
        (p, (importlib.metadata.version(p), named.get(p, "BSD-3-Clause"))) for p in packages
    ]


def run(args, say=print) -> dict:
    out = make_folder(args.out)
    checkpoints = {name: train(name, out, args.overrides, say) for name in RECIPES}
    found = {}
    for name, (checkpoint, seconds) in checkpoints.items():
        config = composed([*RECIPES[name], *COMMON, *args.overrides])
        tokenizer = dataloader.get_tokenizer(config)
        cls = entry.model_class(config)
        model = entry.load_from_checkpoint(cls, str(checkpoint), config, tokenizer)
        model._eval_mode()  # by its average
        if not found:
            rows = dataloader.get_dataset(config, tokenizer, "train")
            kept = held_out(dataloader.get_dataset(config, tokenizer, "valid"), args.rows)
            texts(config.data, out / "assets" / "text")
            text = tokenizer.batch_decode(rows.tokens[:, 1:-1])
            found = {"rows": len(kept), "length": kept.shape[1], "vocabulary": len(tokenizer)}
            found["characters"] = sum(map(len, text))
            found["tables"] = tables(rows.tokens.long(), kept, model.vocab_size)
            say(f"tables: {found['tables']}")
        with torch.no_grad():  # what is measured is what is exported
            for p in model.backbone.parameters():
                p.copy_(p.bfloat16())
        value, error = nats(model, kept)
        say(f"{name}: {value:.3f} +- {error:.3f} nats per token")
        facts = exported(name, checkpoint, model, tokenizer, out / "assets" / name)
        facts |= {"nats": value, "error": error, "seconds": seconds}
        found[name] = facts | {"steps": config.trainer.max_steps}
        if name == "teacher":
            torch.manual_seed(1)
            drawn = model.generate_samples(SAMPLES, num_steps=STEPS)
            found["samples"] = tokenizer.batch_decode(drawn[:, 1:-1])
    write_json(out / "assets" / "figures.json", found)
    write_text(
        out / "assets" / "README.md", card(found, licences(config.data.get("packages") or []))
    )
    say(f"Wrote {out / 'assets'}.")
    return found


if __name__ == "__main__":
    with console.refusals(hydra_errors.ending):
        run(parsed(), partial(print, flush=True))
