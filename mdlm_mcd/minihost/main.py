"""Train, sample or evaluate: `python -m mdlm_mcd.minihost.main algo=mdlm`.

Modes, as in the public hosts: `train`, `sample_eval`, `ppl_eval`. A class named
in the `algo` config (`algo._target_`) is trained in place of the host's own.
"""

import json
import logging
import math
import os
from pathlib import Path

import hydra
import lightning as L
import omegaconf
import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import ProgressBar

from ..checkpoints import identity, unpickling
from ..checkpoints.files import (
    check_overwrite,
    check_writable,
    found_resume_path,
    read_json,
    write_text,
)
from ..errors import ConfigError, border, require_one_of
from ..settings import groups
from . import algo, checks, command, dataloader, paths, start
from .progress import Lines

log = logging.getLogger(__name__)

MODELS = {"mdlm": algo.MDLM, "duo_base": algo.DUO_BASE, "ar": algo.AR}

RESOLVERS = {
    "cwd": os.getcwd,
    # A machine without a GPU trains in one process.
    "device_count": lambda: max(1, torch.cuda.device_count()),
    "div_up": lambda x, y: -(-x // y),
    "mul": lambda *xs: math.prod(xs),
    "on_cuda": lambda there, elsewhere: there if torch.cuda.is_available() else elsewhere,
}


def register_resolvers():
    for name, resolver in RESOLVERS.items():
        omegaconf.OmegaConf.register_new_resolver(name, resolver, replace=True)


def model_class(config):
    """Return the class that `algo._target_` names, else the host's own `algo.name`."""
    if config.algo.get("_target_"):
        return hydra.utils.get_class(config.algo._target_)
    require_one_of(MODELS, "algo.name", config.algo.name)
    return MODELS[config.algo.name]


def load_from_checkpoint(cls, path, config, tokenizer, key="eval.checkpoint_path"):
    """Build a model with weights and EMA of the Lightning checkpoint that `key` names.

    With algo.backbone=hf_dit the model itself opens eval.checkpoint_path.
    """
    if config.algo.backbone == "hf_dit" and key == "eval.checkpoint_path":
        return cls(config, tokenizer)
    check_file(key, path)
    noted = identity.config_of(_open_plain(path, f"{key}={path}"))
    identity.check_tokenizer(noted, tokenizer, f"{key}={path}")
    with border(
        f"{key}={path} does not fit this model",
        "use the `model`, `data` and `algo` settings it was trained with",
    ):
        model = cls.load_from_checkpoint(
            path, map_location="cpu", config=config, tokenizer=tokenizer
        )
        if model.ema and not model.ema.fits(model._get_parameters()):
            raise ValueError("its EMA is of another")
    return model


def _exists(path):
    return get_filesystem(path).exists(path)


def check_file(key, path):
    """Raise ConfigError for a path that is no file."""
    if not path or not _exists(path):
        raise ConfigError(f"{key}={path or '(empty)'} is no file: name the checkpoint to open.")
    if os.path.isdir(path):
        raise ConfigError(
            f"{key}={path} is a folder: name a checkpoint in it, or open a Hugging "
            "Face model with algo.backbone=hf_dit and eval.checkpoint_path."
        )


def _open_plain(path, source):
    """Return the dict in a file, or an empty one; refuse a file whose opening could run code.

    Before torch 2.6 Lightning opens it with pickle.
    """
    try:
        with get_filesystem(path).open(path, "rb") as file:
            local = os.path.exists(path)  # then no more of it is read than is used
            found = torch.load(
                path if local else file, map_location="cpu", weights_only=True, mmap=local
            )
            return found if isinstance(found, dict) else {}
    except Exception as error:  # a broken file fails in many ways
        raise ConfigError(
            f"{source} does not open as tensors and plain values ({unpickling.reason(error)}): "
            "it is damaged, or not of this host; name another, or distil from it with "
            "algo.teacher_path."
        ) from error


def make_trainer(config, **kwargs):
    make, strategy = hydra.utils.instantiate, config.strategy
    # callbacks.NAME=null leaves one out, as ~callbacks.NAME does.
    callbacks = [make(c) for c in (config.get("callbacks") or {}).values() if c]

    def has(kind):
        return any(isinstance(callback, kind) for callback in callbacks)

    if has(Lines) and not has(ProgressBar):  # else Lightning adds a bar of its own
        kwargs.setdefault("enable_progress_bar", config.trainer.get("enable_progress_bar", False))
    return make(
        config.trainer,
        default_root_dir=config.trainer.get("default_root_dir") or os.getcwd(),
        callbacks=callbacks,
        strategy=make(strategy) if strategy.get("_target_") else strategy.name,
        logger=make(config.logger) if config.get("logger") else False,  # ~logger: without one
        **kwargs,
    )


def train(cls, config, tokenizer):
    """Fit; resumes from `checkpointing.resume_ckpt_path` when that file exists."""
    folder = os.path.join(config.checkpointing.save_dir, "checkpoints")
    check_writable(f"checkpointing.save_dir={config.checkpointing.save_dir}", folder)
    resume = found_resume_path(config, _exists)
    finetune = config.training.finetune_path if resume is None else None
    if hasattr(cls, "check_start"):  # what a distiller refuses, before the data
        cls.check_start(config)
    elif finetune:
        check_file("training.finetune_path", finetune)
    train_ds, valid_ds = dataloader.get_dataloaders(config, tokenizer)
    config = dataloader.with_digest(config, train_ds)
    step = _check_resume(cls, config, resume) if resume else 0
    if 0 < config.trainer.max_steps <= step:
        log.info("%s is finished at step %d; nothing to do.", resume, step)
        return {}
    if finetune:
        model = load_from_checkpoint(cls, finetune, config, tokenizer, key="training.finetune_path")
    else:
        model = cls(config, tokenizer)
        if resume is None:
            start.begin(model, train_ds.dataset)
    if config.eval.generate_samples and config.eval.compute_generative_perplexity:
        model.metrics.load_evaluator()  # refused now, not after hours of steps
    # The loaders deal the rows to the processes themselves.
    trainer = make_trainer(config, use_distributed_sampler=False)
    trainer.fit(model, train_ds, valid_ds, ckpt_path=resume)
    if trainer.interrupted:  # Lightning 2.2 returns, perhaps with the average in place
        raise KeyboardInterrupt
    if trainer.global_step > step:
        # The end of a run is kept, whatever the interval of checkpoints.
        trainer.save_checkpoint(os.path.join(folder, "last.ckpt"))
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def _check_resume(cls, config, path):
    """Return the step of the checkpoint `path`; refuse one of another run."""
    reads = hasattr(cls, "check_start")  # a distiller opens it itself, or an older one
    try:
        checkpoint = _open_plain(path, f"checkpointing.resume_ckpt_path={path}")
    except ConfigError:
        if reads:
            return 0
        raise
    step = checkpoint.get("global_step")
    step = step if isinstance(step, int) else 0
    if not reads or 0 < config.trainer.max_steps <= step:
        getattr(cls, "check_resume", _check_settings)(config, checkpoint, path)
    return step


def _check_settings(config, checkpoint, path):
    mine = omegaconf.OmegaConf.to_container(config, resolve=True)
    trainer = identity.config_of(checkpoint).get("trainer")
    longer = isinstance(trainer, dict) and trainer.get("max_steps") != config.trainer.max_steps
    # A model of the host's own may be trained longer, and its schedule follows.
    free = {"lr_scheduler.num_training_steps", "lr_scheduler.num_warmup_steps"}
    identity.check(checkpoint, mine, path, free if longer else ())


def sample_eval(cls, config, tokenizer):
    """Draw samples and write them as JSON, with their entropy and perplexity."""
    out = Path(config.eval.generated_samples_path)
    check_writable(f"eval.generated_samples_path={out}", out.parent)
    check_overwrite(f"eval.generated_samples_path={out}", out, _foreign)
    model = load_from_checkpoint(cls, config.eval.checkpoint_path, config, tokenizer)
    if config.eval.disable_ema:
        model.ema = None
    if config.eval.compute_generative_perplexity:
        model.metrics.load_evaluator()  # refused now, not after the samples
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    texts = []
    for _ in range(config.sampling.num_sample_batches):
        samples = model.restore_model_and_sample(num_steps=config.sampling.steps)
        model.metrics.record_entropy(samples)
        texts += tokenizer.batch_decode(samples)
    result = {
        "entropy": model.metrics.sample_entropy.compute().item(),
        "sampling_dtype": "float64" if config.sampling.use_float64 else "float32",
        "steps": config.sampling.steps,
    }
    if config.eval.compute_generative_perplexity:
        model.metrics.record_generative_perplexity(texts, config.model.length, device=model.device)
        result["generative_ppl"] = model.metrics.gen_ppl.compute().item()
    log.info("%s", result)
    write_text(out, json.dumps({**result, "generated_seqs": texts}, indent=1))
    log.info("Samples: %s", out)
    return result


def _foreign(path):
    """Return why a file holds no samples in the layout of the hosts."""
    found = read_json(path, None)
    ours = isinstance(found, dict) and "generated_seqs" in found
    return "" if ours else "it has no generated_seqs"


def ppl_eval(cls, config, tokenizer):
    """Measure the NELBO (or the likelihood, for AR) of the validation split."""
    model = load_from_checkpoint(cls, config.eval.checkpoint_path, config, tokenizer)
    if config.eval.disable_ema:
        model.ema = None
    _, valid_ds = dataloader.get_dataloaders(config, tokenizer, skip_train=True)
    (result,) = make_trainer(config).validate(model, valid_ds)
    return result


MODES = {"train": train, "sample_eval": sample_eval, "ppl_eval": ppl_eval}


def run(config):
    """Run the mode that a composed config names; return its figures."""
    # What a user's own class reads is not known here.
    target = config.algo.get("_target_") or "mdlm_mcd."
    groups.check_groups(config, complete=target.startswith("mdlm_mcd."))
    require_one_of(MODES, "mode", config.mode)
    checks.check(config)
    paths.make_absolute(config)
    L.seed_everything(config.seed)
    cls = model_class(config)
    return MODES[config.mode](cls, config, dataloader.get_tokenizer(config))


CONFIGS = str(Path(__file__).parent / "configs")


def main():
    """Run the command line. A refusal, ours or a library's, ends with status 1."""

    @hydra.main(version_base=None, config_path=CONFIGS, config_name="config")
    def job(config):
        # By its name: a launcher may have sent this to another process.
        from mdlm_mcd.minihost import main as here

        return command.perform(here.run, config)

    command.call(job)


register_resolvers()

if __name__ == "__main__":
    main()
