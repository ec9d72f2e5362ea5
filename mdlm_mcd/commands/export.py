"""`mdlm-mcd export`: a checkpoint as a folder that opens without this package.

The folder has `model.safetensors` and `config.json` in the layout of the released
`mdlm-owt`, the code that `transformers` runs to open them, and a model card. Where
the weights come from travels in all three.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .. import __version__, errors
from ..checkpoints import identity, weights
from ..checkpoints.files import expanded
from ..checkpoints.sanitize import section
from ..errors import ConfigError, border
from ..evaluation import candidates
from ..models import dit

MODELS = Path(dit.__file__).parent
CODE = (MODELS / "hf/configuration_mdlm.py", MODELS / "hf/modeling_mdlm.py", MODELS / "dit.py")
CARD = Path(__file__).with_name("model_card.md")
# What the distiller notes in its checkpoints, as far as it travels on.
_NOTED = ("algo", "loss", "round", "delta", "tau", "teacher_path", "settings", "training")


def configure(parser) -> None:
    parser.description = (
        "Writes model.safetensors, config.json, the code that opens them "
        "and a model card. transformers.AutoModelForMaskedLM opens the folder without "
        "this package, and so do MDLM, Duo (backbone=hf_dit) and algo.teacher_path."
    )
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="what teacher_path takes")
    add("out", metavar="OUT", help="the folder to write")
    add("--weights", choices=("ema", "raw"), default="ema")
    text = "goes along; bpe: the one the embedded host trained"
    add("--tokenizer", metavar="NAME_OR_PATH", help=text)
    missing = parser.add_argument_group("where the checkpoint does not say it")
    missing.add_argument("--length", type=int, metavar="N", help="tokens in a sequence")
    missing.add_argument("--heads", type=int, metavar="N", help="attention heads")
    missing.add_argument("--time-conditioning", action=argparse.BooleanOptionalAction, default=None)
    parser.epilog = "Example: mdlm-mcd export student/checkpoints/round-5.ckpt my-student"
    parser.set_defaults(call=call)


def call(args) -> None:
    given = dict(length=args.length, n_heads=args.heads, time_conditioning=args.time_conditioning)
    sizes = weights.model_sizes(given)  # without those that are not given
    print(export(args.checkpoint, args.out, args.weights, args.tokenizer, sizes))


def export(
    checkpoint: str,
    out: str | Path,
    which: str = "ema",
    tokenizer: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> str:
    """Write `checkpoint`, anything `read_weights` opens, to the new folder `out`.

    which: `ema` or `raw`. tokenizer: as of `--tokenizer`. given: model_length, n_heads, dropout
    or time_conditioning where the checkpoint does not say them. Returns a line that says what
    was written. Raises CheckpointError and ConfigError; `out` is then as it was.
    """
    out, source = Path(expanded(out, "OUT")).absolute(), f"CKPT={checkpoint}"
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"OUT={out} exists: name a new folder, or delete it.")
    found = weights.read_weights(checkpoint, "CKPT")
    sizes = candidates.sizes(found, given or {}, source)
    backbone, taken = candidates.build(found, sizes, which, source)
    info = _info(found, checkpoint, taken)
    config = {
        "architectures": ["MDLM"],
        "auto_map": {
            "AutoConfig": "configuration_mdlm.MDLMConfig",
            "AutoModelForMaskedLM": "modeling_mdlm.MDLM",
        },
        "model_type": "mdlm",
        **sizes,
        **_schedule(found.config),
        "torch_dtype": "float32",
        "mdlm_mcd": info,
    }
    if section(found.config, "algo").get("ignore_bos"):  # its first token is given
        config["algo"] = {"ignore_bos": True}
    opened = tokenizer and candidates.given_tokenizer(tokenizer, found.config)
    if opened:
        config["mask_index"] = candidates.mask_index(opened, sizes["vocab_size"], source)
        info[identity.TOKENIZER] = identity.tokenizer_sha256(opened)
        # No chat with a masked model; names of templates become file names in transformers.
        opened.chat_template = None
    tensors = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    notes = {"format": "pt", "mdlm_mcd": json.dumps(info)}
    if found.global_step is not None:
        notes["global_step"] = str(found.global_step)
    card, part = _card(out.name, config), out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with border(f"OUT={out} cannot be written", "name a folder that can"):
            part.mkdir(parents=True)
            save_file(tensors, part / "model.safetensors", notes)
            (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            (part / "README.md").write_text(card, "utf-8")
            for path in CODE:
                shutil.copyfile(path, part / path.name)
            if opened:
                opened.save_pretrained(part)
            os.replace(part, out)  # also an empty folder
    finally:
        shutil.rmtree(part, ignore_errors=True)
    count = sum(p.numel() for p in backbone.parameters())
    return f"Wrote {out}: {count / 1e6:.1f}M parameters, {taken} from {checkpoint}."


def _info(found: weights.Weights, checkpoint: str, taken: str) -> dict[str, Any]:
    """Return where the weights come from; nothing that names a folder of this machine."""

    def public(path):
        if not isinstance(path, str) or not path:
            return None
        on_hub = weights.HUB_ID.fullmatch(path) and not os.path.exists(path)
        return path if on_hub else os.path.basename(os.path.normpath(path))

    info = {
        "exported_by": f"mdlm-mcd {__version__}",
        "checkpoint": public(checkpoint),
        "weights": taken,
        "global_step": found.global_step,
    }
    if noted := {k: found.mdlm_mcd[k] for k in _NOTED if k in found.mdlm_mcd}:
        settings = section(noted, "settings") or section(found.config, "algo")
        teacher = {"teacher_path": public(noted.get("teacher_path"))}
        info |= {**noted, **teacher, "settings": {**settings, **teacher}}
    if digest := identity.noted_tokenizer(found.config):
        info[identity.TOKENIZER] = digest
    training = {
        "optim": found.config.get("optim"),
        "ema": section(found.config, "training").get("ema"),
        "global_batch_size": section(found.config, "loader").get("global_batch_size"),
    }
    return info | ({"training": training} if any(training.values()) else {})


def _schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `candidates.schedule` reads in a host's config, for the folder's."""
    noise = section(config, "noise")
    keys = ("type", "eps", "sigma_min", "sigma_max")
    kept = {k: noise[k] for k in keys if isinstance(noise.get(k), (str, int, float))}
    return {"noise": kept} | ({"parameterization": "subs"} if "parameterization" in config else {})


def _cell(value: Any) -> str:
    """Return a value as one line of a table in Markdown, escaped."""
    if isinstance(value, dict):
        return ", ".join(f"{_cell(k)}: {_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return re.sub(r"([|<>\[\]`\\])", r"\\\1", errors.shown(value, 200))


def _card(name: str, config: dict[str, Any]) -> str:
    info, vocab_size = config["mdlm_mcd"], config["vocab_size"]
    origin = "Nothing is noted of a distillation: the weights are a host's own."
    if "loss" in info:
        algo = info.get("algo") or "mcd"  # 0.1.0 noted none
        method = "Masked Consistency Distillation (arXiv 2602.00792)"
        method = method if algo == "mcd" else _cell(f"algo={algo}")
        teacher = _cell(info.get("teacher_path") or "a random start")
        origin = f"A student of {method}, distilled from {teacher}."
    sizes = {k: v for k, v in config.items() if isinstance(v, (int, float))}
    facts = {k: v for k, v in {**info, **sizes}.items() if v not in (None, "", {})}
    timed = config["time_conditioning"]
    sigma = "sigma = torch.tensor([6.9])  # -log alpha_t, where alpha_t = 1e-3\n"
    return CARD.read_text("utf-8").format(
        name=name,
        sigma=sigma * timed,
        timesteps=", timesteps=sigma" * timed,
        origin=origin,
        length=config["model_length"],
        vocab=vocab_size,
        mask=config.get("mask_index", vocab_size - 1),
        guess=" (the last, unless the tokenizer has its own)" * ("mask_index" not in config),
        rows="\n".join(f"| {k} | {_cell(v)} |" for k, v in facts.items()),
    )
