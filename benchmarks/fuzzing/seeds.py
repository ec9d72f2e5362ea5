"""Good inputs of each kind, from which the wrong ones are made."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import hydra
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors.torch import save

from mdlm_mcd import configs_dir
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as entry

from . import pickling
from .held import saved

WORDS = "the cat sat on a mat and saw one old dog run by its red house at dawn".split()
TINY = (
    "data=textfile",
    "data.vocab_size=270",
    "model=laptop",
    "model.hidden_size=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.cond_dim=8",
    "model.length=16",
    "loader.global_batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "~callbacks.progress",
    "lr_scheduler.num_warmup_steps=0",
)
LOSSES = {"mcd": "hybrid", "sdtt": "kl_bwd", "cd4lm": "kl_bwd", "dcd": "kl_fwd"}
# Settings that one method has and the others lack.
OWN = {"dcd": ("algo.gamma_min=-4", "algo.gamma_max=-1")}


@contextlib.contextmanager
def composing():
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
        yield hydra.compose


def tiny(folder: Path) -> list[str]:
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        corpus.write_text(
            "\n\n\n".join(
                " ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 12)) for i in range(60)
            )
        )
    return [*TINY, f"data.files=[{corpus}]", f"data.cache_dir={folder / 'cache'}"]


def minihost(folder: Path, name: str) -> dict:
    """A checkpoint of the embedded host, untrained, as Lightning writes it."""
    entry.register_resolvers()
    with composing() as compose:
        config = compose("config", [*tiny(folder), f"algo={name}"])
    cls = {"mdlm": algo.MDLM, "ar": algo.AR}[name]
    model = cls(config, dataloader.get_tokenizer(config))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    held = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {"config": OmegaConf.to_container(config, resolve=True)},
        "global_step": 17,
        "epoch": 0,
        "pytorch-lightning_version": "2.2.0",
        "ema": {
            "decay": 0.9,
            "num_updates": 5,
            "shadow_params": [p.detach() + 1 for p in model.backbone.parameters()],
        },
    }
    if name == "mdlm":
        held["mdlm_mcd"] = {
            "algo": "mcd",
            "loss": "hybrid",
            "round": 2,
            "delta": 0.004,
            "tau": 0.9,
            "teacher_path": "a/b.ckpt",
            "guard": [1.0, 2],
            "teacher": None,
        }
    return held


def checkpoints(folder: Path) -> list[bytes]:
    own = minihost(folder, "mdlm")
    # As MDLM does: its config and some object of its own, pickled.
    config = OmegaConf.create(
        {
            "parameterization": "subs",
            "T": 0,
            "time_conditioning": False,
            "model": {"length": 16, "hidden_size": 16, "n_heads": 2, "dropout": 0.1},
            "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
            "data": {"tokenizer_name_or_path": "gpt2", "cache_dir": "${T}"},
        }
    )
    theirs = {**own, "hyper_parameters": {"config": config, "tokenizer": Path("x")}}
    hyper = pickling.as_hyper
    evil = [
        pickling.checkpoint(hyper(pickling.harm(name, "touch canary"))) for name in pickling.HARM
    ]
    bombs = list(pickling.bombs().values())
    return [
        saved(own),
        saved(theirs),
        saved(own["state_dict"]),
        *evil,
        *(pickling.checkpoint(hyper(b)) for b in bombs),
        *(pickling.checkpoint(b"}" + pickling.text("w") + b + b"s") for b in bombs),
        *(pickling.checkpoint(b) for b in bombs),
        pickling.archive({"x/data.pkl": b"\0" * 10**6}, compress=True),
        pickling.stream(pickling.harm("os system", "touch canary")),
    ]


def plain_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in minihost(folder, "mdlm")["state_dict"].items()}


def safetensors(folder: Path) -> list[bytes]:
    said = {"format": "pt", "global_step": "7", "mdlm_mcd": '{"loss": "hybrid"}'}
    mixed = {
        "a": torch.ones(2, 3),
        "b": torch.zeros(0),
        "c": torch.tensor(1.5),
        "vocab_embed.embedding": torch.ones(3),
    }
    return [save(plain_tensors(folder), said), save(mixed, {}), save({}, None)]


def documents(folder: Path) -> list[bytes]:
    """`config.json` and the table of shards of a Hugging Face folder."""
    config = {
        "model_type": "mdlm",
        "architectures": ["MDLM"],
        "vocab_size": 271,
        "auto_map": {"AutoConfig": "evil.Config"},
        "hidden_dim": 16,
        "cond_dim": 8,
        "n_blocks": 2,
        "n_heads": 2,
        "model_length": 16,
        "dropout": 0.1,
        "time_conditioning": False,
        "noise": {"type": "loglinear"},
        "mdlm_mcd": {
            "exported_by": "mdlm-mcd",
            "loss": "hybrid",
            "round": 1,
            "teacher_path": "a/b.ckpt",
            "settings": {"tau0": 0.9},
        },
    }
    table = {"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}}
    return [json.dumps(config).encode(), json.dumps(table).encode()]


def results(folder: Path) -> list[bytes]:
    rows = []
    for name, scale in (("teacher", 1.0), ("MCD", 0.7)):
        for steps in (4, 8, 16):
            for t in (1.0, 0.8):
                figures = {
                    k: {"value": v, "low": v * 0.98, "high": v * 1.02}
                    for k, v in (
                        ("perplexity", scale * t * (200 + 400 / steps)),
                        ("entropy", 3.8 + 0.2 * t),
                        ("nelbo", 4.3),
                        ("distinct_2", 0.6),
                    )
                }
                rows.append(
                    {
                        "schema": 1,
                        "model": name,
                        "steps": steps,
                        "temperature": t,
                        "sampler": "sparse",
                        "u_law": "iid",
                        "u_step": None,
                        "dtype": "float64",
                        "seed": 1,
                        "num_samples": 128,
                        "length": 64,
                        "evaluator": "gpt2-large",
                        "sha256": name * 4,
                        "metrics": figures,
                        "texts": ["a cat", "a dog"],
                        "corpus": {"perplexity": 57.4},
                        "recipe": {"loss": "hybrid"},
                        "round": int(name == "MCD"),
                        "teacher": "t",
                        "host": "minihost",
                        "versions": {"torch": "2"},
                        "machine": {"cores": 2},
                        "seconds": 1.5,
                        "evaluations": steps,
                        "checkpoint": "x.ckpt",
                        "top_p": 1.0,
                        "stratified": False,
                    }
                )
    whole = [json.dumps(row) for row in rows]
    deep = "[" * 100_000
    return [
        "\n".join(whole).encode(),
        "\n".join(whole[:5]).encode(),
        whole[0].encode(),
        (whole[0] + "\n" + deep + '\n{"steps": ' + "9" * 5000 + "}").encode(),
    ]


def overrides(folder: Path) -> list[bytes]:
    common = (
        "algo.rounds=2",
        "algo.steps_per_round=5",
        "algo.tau0=0.96",
        "algo.delta0=0.01",
        "algo.growth=2",
        "algo.tau_step=0.03",
        "algo.guard=stop",
        "algo.snapshot=raw",
        "algo.init_from=ema",
        "algo.coupling=shared",
        "algo.u_law=iid",
        "algo.u_step=null",
        "algo.head_chunk=64",
        "algo.min_entropy=null",
        "algo.teacher_path=a.ckpt",
        "trainer.max_steps=10",
        "training.ema=0.9",
        "noise.eps=1e-3",
        "model.length=16",
        "data.wrap=true",
    )
    found = []
    for name, loss in LOSSES.items():
        text = (configs_dir() / "algo" / f"{name}.yaml").read_text("utf-8")
        known = yaml.safe_load(text)["algo"]
        # No override of a key that the method lacks: Hydra ends there, before us.
        words = [
            word
            for word in (*OWN.get(name, ()), *common)
            if word.partition("=")[0].removeprefix("algo.") in known or not word.startswith("algo.")
        ]
        found += [
            "\n".join([f"algo={name}", f"algo.loss={loss}", *words[i::3]]).encode()
            for i in range(3)
        ]
    return found
