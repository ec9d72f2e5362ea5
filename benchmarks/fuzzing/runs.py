"""Checkpoints of runs: a distillation that goes on from one, a host that samples."""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from pathlib import Path

import lightning as L

from mdlm_mcd.errors import UnfinishedError
from mdlm_mcd.minihost import command, dataloader
from mdlm_mcd.minihost import main as entry

from . import held, seeds

TINIER = (
    "model.hidden_size=4",
    "model.n_blocks=1",
    "model.n_heads=1",
    "model.cond_dim=4",
    "trainer.limit_val_batches=0",
    "trainer.num_sanity_val_steps=0",
    "~logger",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "+trainer.enable_checkpointing=false",
    "~callbacks.checkpoint_every_n_steps",
    "~callbacks.checkpoint_monitor",
    "sampling.steps=1",
    "sampling.num_sample_batches=1",
    "loader.eval_global_batch_size=2",
    "eval.compute_generative_perplexity=false",
)
# Saved in the middle of the second round, which needs the teacher in the checkpoint.
SAVED, STEPS = 3, 4
MCD = (
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=2",
    "algo.steps_per_round=2",
    f"trainer.max_steps={STEPS}",
    "algo.delta0=0.0625",
    "algo.min_entropy=null",
)


class Stop(L.Callback):
    """Ends a run in the middle."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == SAVED


@functools.cache
def setting(home: Path, *overrides: str):
    """The config, its model's class and the tokenizer; of this process, once."""
    warnings.simplefilter("ignore")  # of Lightning's advice, a line for each case
    entry.register_resolvers()
    with seeds.composing() as compose:
        config = compose("config", [*seeds.tiny(home), *TINIER, *overrides])
    return config, entry.model_class(config), dataloader.get_tokenizer(config)


@functools.cache
def interrupted(home: Path, *overrides: str) -> bytes:
    """`last.ckpt` of a run that was stopped at step SAVED."""
    config, cls, tokenizer = setting(
        home,
        *overrides,
        f"checkpointing.save_dir={home / 'saved'}",
        "checkpointing.resume_from_ckpt=false",
        f"+callbacks.stop._target_={Stop.__module__}.Stop",
    )
    with contextlib.suppress(UnfinishedError):
        entry.train(cls, config, tokenizer)
    return (home / "saved" / "checkpoints" / "last.ckpt").read_bytes()


def resumed(home: Path) -> list[bytes]:
    good = interrupted(home, *MCD)
    return [good, *held.wrong(good, held.MODEL | held.RUN).values()]


def sampled(home: Path) -> list[bytes]:
    """The host's own model, and a student that keeps its teacher beside it."""
    good = interrupted(home, "algo=mdlm")
    return [good, interrupted(home, *MCD), *held.wrong(good, held.MODEL).values()]


def resume(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    """The run goes on from the file, to its end."""
    path = folder / "x.ckpt"
    path.write_bytes(data)
    _run(
        "train",
        home,
        f"checkpointing.save_dir={folder}",
        f"checkpointing.resume_ckpt_path={path}",
        *MCD,
    )


def sample(folder: Path, data: bytes, rng: random.Random, home: Path) -> None:
    """`mode=sample_eval` of the file, as a model of the host's or as a distiller."""
    path = folder / "x.ckpt"
    path.write_bytes(data)
    algo = MCD if rng.random() < 0.3 else ("algo=mdlm",)
    ema = "true" if rng.random() < 0.2 else "false"
    _run(
        "sample_eval",
        home,
        f"eval.checkpoint_path={path}",
        f"eval.generated_samples_path={folder / 'samples.json'}",
        f"eval.disable_ema={ema}",
        *algo,
    )


def _run(mode: str, home: Path, *overrides: str) -> None:
    # Short of `entry.run`, which sets the seed in the environment of the process.
    config, cls, tokenizer = setting(home, f"mode={mode}", *overrides)
    try:
        entry.MODES[mode](cls, config, tokenizer)
    except Exception as error:
        raise (
            command.explain(error) or error
        ) from error  # what the command line says in its place
