"""`mdlm-mcd export`: a checkpoint as a folder that opens without this package.

The folder has `model.safetensors` and `config.json` in the layout of the released
`mdlm-owt`, the code that `transformers` runs to open them, and a model card. Where
the weights come from travels in all three.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from .. import __version__, errors
from ..checkpoints import sanitize, weights
from ..errors import ConfigError
from ..evaluation import candidates
from ..models import dit, vocabulary

MODELS = Path(dit.__file__).parent
CODE = (MODELS / "hf/configuration_mdlm.py", MODELS / "hf/modeling_mdlm.py", MODELS / "dit.py")
CARD = Path(__file__).with_name("model_card.md")
_AUTO_MAP = {
    "AutoConfig": "configuration_mdlm.MDLMConfig",
    "AutoModelForMaskedLM": "modeling_mdlm.MDLM",
}
# Files of an export; from the fourth on, what tokenizers save.
_WRITTEN = """
    model.safetensors config.json README.md
    tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json
    vocab.json vocab.txt merges.txt chat_template.jinja tokenizer.model spiece.model
""".split()
# What the distiller notes in its checkpoints, as far as it travels on.
_NOTED = ("algo", "loss", "round", "delta", "tau", "teacher_path", "settings", "training")


def configure(parser) -> None:
    parser.description = (
        "Writes model.safetensors, config.json, the code that opens them "
        "and a model card. transformers.AutoModelForMaskedLM opens the folder without "
        "this package, and so do MDLM, Duo (backbone=hf_dit) and algo.teacher_path."
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="what teacher_path takes")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_PATH",
        help="goes along; bpe: the one the embedded host trained",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export")
    unsaid = parser.add_argument_group("where the checkpoint does not say it")
    unsaid.add_argument("--length", type=int, metavar="N", help="tokens in a sequence")
    unsaid.add_argument("--heads", type=int, metavar="N", help="attention heads")
    unsaid.add_argument("--time-conditioning", action=argparse.BooleanOptionalAction, default=None)
    parser.set_defaults(call=call)


def call(args) -> None:
    given = {
        "model_length": args.length,
        "n_heads": args.heads,
        "time_conditioning": args.time_conditioning,
    }
    line = export(
        args.checkpoint,
        args.out,
        which=args.weights,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
        given={k: v for k, v in given.items() if v is not None},
    )
    print(line)


def export(
    checkpoint: str,
    out: str | Path,
    which: str = "ema",
    tokenizer: str | None = None,
    overwrite: bool = False,
    given: Mapping[str, Any] | None = None,
) -> str:
    """Write `checkpoint`, anything `read_weights` opens, to the folder `out`.

    which: `ema` or `raw`. tokenizer: a folder or Hub name whose tokenizer goes along;
    `bpe` is the one that the embedded host trained. given: model_length, n_heads,
    dropout or time_conditioning where the checkpoint does not say them. Returns a
    line that says what was written. Raises CheckpointError and ConfigError; `out` is
    then as it was.
    """
    out = Path(out).absolute()
    _check_target(out, overwrite)
    source = f"CKPT={checkpoint}"
    found = weights.read_weights(checkpoint, "CKPT")
    sizes = candidates.sizes(found, given or {}, source)
    backbone, taken = candidates.build(found, sizes, which, source, "--weights")
    config = {
        "architectures": ["MDLM"],
        "auto_map": _AUTO_MAP,
        "model_type": "mdlm",
        **sizes,
        **_schedule(found.config),
        "torch_dtype": "float32",
        "mdlm_mcd": _info(found, checkpoint, taken),
    }
    opened = None
    if tokenizer is not None:
        opened = candidates.given_tokenizer(tokenizer, found.config)
        count, config["mask_index"] = vocabulary.masked(opened, sizes["vocab_size"])
        if count != sizes["vocab_size"]:
            raise ConfigError(
                f"--tokenizer {tokenizer} makes a vocabulary of {count}, mask "
                f"included, and the model has {sizes['vocab_size']}: name the "
                "tokenizer it was trained with."
            )
    try:
        _write(out, backbone, config, found.global_step, opened)
    except (OSError, SafetensorError) as error:  # the latter of a full disk
        raise ConfigError(
            f"OUT={out} cannot be written ({error}): name a folder that can."
        ) from error
    count = sum(p.numel() for p in backbone.parameters())
    return f"Wrote {out}: {count / 1e6:.1f}M parameters, {taken} from {checkpoint}."


def _write(out: Path, backbone, config: dict[str, Any], step, tokenizer) -> None:
    """Write the whole folder beside `out`, then put it in its place."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        tensors = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
        notes = {"format": "pt", "mdlm_mcd": json.dumps(config["mdlm_mcd"])}
        if step is not None:
            notes["global_step"] = str(step)
        save_file(tensors, part / "model.safetensors", notes)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        for path in CODE:
            shutil.copyfile(path, part / path.name)
        if tokenizer is not None:
            # No chat with a masked model; their names are file names in transformers.
            tokenizer.chat_template = None
            tokenizer.save_pretrained(part)
        (part / "README.md").write_text(_card(out.name, config), "utf-8")
        _put(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _ours(folder: Path) -> bool:
    """Return whether an export of ours is all that a folder contains."""
    try:
        config = sanitize.read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    noted = config.get("mdlm_mcd") if isinstance(config, dict) else None
    if not isinstance(noted, dict) or "exported_by" not in noted:
        return False
    known = {*_WRITTEN, *(path.name for path in CODE)}
    return all(path.is_file() and path.name in known for path in folder.iterdir())


def _check_target(out: Path, overwrite: bool) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not overwrite:
        raise ConfigError(f"OUT={out} exists: name a new folder, or replace it with --overwrite.")
    if out.exists() and not _ours(out):
        raise ConfigError(
            f"OUT={out} holds other things than an exported model, so --overwrite does "
            "not replace it: name another folder."
        )


def _put(part: Path, out: Path) -> None:
    """Move the finished folder into place, whole."""
    old = part.with_suffix(".old")
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(part, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _info(found: weights.Weights, checkpoint: str, taken: str) -> dict[str, Any]:
    """Return where the weights come from; nothing that names a folder of this machine."""

    def public(path):
        if not isinstance(path, str) or not path:
            return None
        if weights.HUB_ID.fullmatch(path) and not os.path.exists(path):
            return path
        return os.path.basename(os.path.normpath(path))

    info = {k: found.mdlm_mcd[k] for k in _NOTED if k in found.mdlm_mcd}
    if info:
        settings = candidates.section(info, "settings") or candidates.section(found.config, "algo")
        info["teacher_path"] = public(info.get("teacher_path"))
        info["settings"] = {**settings, "teacher_path": info["teacher_path"]}
    training = {
        "optim": found.config.get("optim"),
        "ema": candidates.section(found.config, "training").get("ema"),
        "global_batch_size": candidates.section(found.config, "loader").get("global_batch_size"),
    }
    if any(training.values()):
        info["training"] = training
    return {
        "exported_by": f"mdlm-mcd {__version__}",
        "checkpoint": public(checkpoint),
        "weights": taken,
        "global_step": found.global_step,
        **info,
    }


def _schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `candidates.schedule` reads in a host's config, for the folder's."""
    noise = {
        name: value
        for name, value in candidates.section(config, "noise").items()
        if name in ("type", "eps", "sigma_min", "sigma_max")
        and isinstance(value, (str, int, float))
    }
    return {"noise": noise} | ({"parameterization": "subs"} if "parameterization" in config else {})


def _cell(value: Any) -> str:
    """Return a value as one line of a table in Markdown, escaped."""
    if isinstance(value, dict):
        return ", ".join(f"{_cell(k)}: {_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    text = errors.shown(value, 200)
    return "".join("\\" + c if c in "|<>[]`\\" else c for c in text)


def _card(name: str, config: dict[str, Any]) -> str:
    info = config["mdlm_mcd"]
    if "loss" in info:
        origin = (
            f"A student of Masked Consistency Distillation (arXiv 2602.00792), "
            f"distilled from {_cell(info.get('teacher_path') or 'a random start')}."
        )
    else:
        origin = "Nothing is noted of a distillation: the weights are a host's own."
    sizes = {k: v for k, v in config.items() if isinstance(v, (int, float))}
    facts = {k: v for k, v in {**info, **sizes}.items() if v not in (None, "", {})}
    timed = config["time_conditioning"]
    sigma = "sigma = torch.tensor([6.9])  # -log alpha_t, where alpha_t = 1e-3\n"
    return CARD.read_text("utf-8").format(
        name=name,
        sigma=sigma if timed else "",
        timesteps=", timesteps=sigma" if timed else "",
        origin=origin,
        length=config["model_length"],
        vocab=config["vocab_size"],
        mask=config.get("mask_index", config["vocab_size"] - 1),
        guess="" if "mask_index" in config else " (the last, unless the tokenizer has its own)",
        rows="\n".join(f"| {k} | {_cell(v)} |" for k, v in facts.items()),
    )
