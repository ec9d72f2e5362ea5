"""Kinds and ranges of the host's settings, looked at before anything is loaded."""

import math
from numbers import Integral, Real

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checkpoints.files import FULL, disk_full
from ..errors import ConfigError
from ..settings import hydra_errors
from ..settings.hydra_errors import unusable


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, bool)


def whole(least, words=None):
    """A whole number from `least` on."""
    return (
        lambda x: _is(Integral, x) and x >= least,
        words or f"a whole number of at least {least}",
    )


def number(low, high=math.inf, words="a number"):
    """A finite number of [low, high]."""
    upto = f"from {low} on" if high == math.inf else f"from {low} to {high}"
    return (lambda x: _is(Real, x) and math.isfinite(x) and low <= x <= high, f"{words} {upto}")


def below(low, high):
    """A number of [low, high)."""
    fits, _ = number(low, high)
    return lambda x: fits(x) and x < high, f"a number from {low} on, below {high}"


def or_null(rule):
    fits, words = rule
    return lambda x: x is None or fits(x), f"{words}, or null"


ONE_OR_MORE = whole(1)
TRUTH = (lambda x: isinstance(x, bool), "true or false")
NAME = (lambda x: isinstance(x, str) and bool(x.strip()), "a path")
# Lightning takes a share of an epoch as well.
SHARE = (lambda x: _is(Real, x) and math.isfinite(x) and x > 0, "a number above 0")

# What others are computed from comes first.
RULES = {
    "seed": (lambda x: _is(Integral, x) and 0 <= x < 2**32, "a whole number from 0 to 2^32 - 1"),
    "trainer.devices": ONE_OR_MORE,
    "trainer.num_nodes": ONE_OR_MORE,
    "loader.global_batch_size": ONE_OR_MORE,
    "loader.eval_global_batch_size": ONE_OR_MORE,
    "loader.batch_size": ONE_OR_MORE,
    "loader.eval_batch_size": ONE_OR_MORE,
    "loader.num_workers": whole(0),
    "loader.pin_memory": TRUTH,
    "trainer.accumulate_grad_batches": ONE_OR_MORE,
    "trainer.max_steps": (
        lambda x: _is(Integral, x) and (x > 0 or x == -1),
        "a whole number of at least 1, or -1 for no end",
    ),
    "trainer.gradient_clip_val": or_null(number(0)),
    "trainer.log_every_n_steps": whole(0),
    "trainer.num_sanity_val_steps": whole(-1),
    # Lightning takes a time as well.
    "trainer.val_check_interval": (lambda x: not isinstance(x, Real) or SHARE[0](x), SHARE[1]),
    "trainer.limit_train_batches": SHARE,
    "model.length": whole(3, "at least 3, for BOS, EOS and a token between them"),
    "model.hidden_size": ONE_OR_MORE,
    "model.n_heads": ONE_OR_MORE,
    "model.n_blocks": ONE_OR_MORE,
    "model.cond_dim": ONE_OR_MORE,
    "model.dropout": below(0, 1),
    "model.tie_word_embeddings": (lambda x: x is False, "false, this host ties none"),
    "model.embed_std": or_null(number(0)),
    # Its trainer reserves memory for all of it.
    "data.vocab_size": (lambda x: _is(Integral, x) and x <= 2**20, "a whole number up to 2^20"),
    "data.separator": (
        lambda x: x is None or (isinstance(x, str) and bool(x.strip())),
        "a line of text, or null",
    ),
    "data.max_chars": whole(0),
    "data.cache_dir": NAME,
    "data.wrap": TRUTH,
    "optim.lr": number(0),
    "optim.beta1": below(0, 1),
    "optim.beta2": below(0, 1),
    "optim.eps": number(0),
    "optim.weight_decay": number(0),
    "lr_scheduler.num_warmup_steps": whole(0),
    "training.ema": number(0, 1, "a decay"),
    "training.sampling_eps": below(0, 1),
    "training.antithetic_sampling": TRUTH,
    "noise.eps": (lambda x: _is(Real, x) and math.isfinite(x), "a small number"),
    "algo.time_conditioning": TRUTH,
    "algo.causal_attention": TRUTH,
    "sampling.steps": ONE_OR_MORE,
    "sampling.num_sample_batches": ONE_OR_MORE,
    "sampling.p_nucleus": (lambda x: _is(Real, x) and 0 < x <= 1, "a number above 0, up to 1"),
    "sampling.use_float64": TRUTH,
    "eval.disable_ema": TRUTH,
    "eval.generate_samples": TRUTH,
    "eval.compute_generative_perplexity": TRUTH,
    "eval.perplexity_batch_size": ONE_OR_MORE,
    "eval.generated_samples_path": NAME,
    "checkpointing.save_dir": NAME,
    "checkpointing.resume_from_ckpt": TRUTH,
}


def check(config) -> None:
    """Raises ConfigError for the first setting that is of no use."""
    for key, (fits, words) in RULES.items():
        try:
            value = OmegaConf.select(config, key, default=...)
        except OmegaConfBaseException as error:
            raise unusable(error) from error
        if value is not ... and not fits(value):
            raise ConfigError(f"{key}={value} is out of range: give {words}.")
    heads, size = config.model.n_heads, config.model.hidden_size
    if size % (2 * heads):
        raise ConfigError(
            f"model.hidden_size={size} is not shared evenly by model.n_heads={heads}: "
            f"take a multiple of {2 * heads}, as rotary positions turn pairs."
        )


def check_choices(model: str, checks: dict):
    """checks: {key: (value, allowed)}. Raises ConfigError for the first that is not."""
    for key, (value, allowed) in checks.items():
        if value not in allowed:
            raise ConfigError(
                f"{key}={value} does not work with {model}: choose one of "
                f"{', '.join(map(str, sorted(allowed)))}."
            )


def explain(error: Exception) -> Exception:
    """A ConfigError for what OmegaConf, Hydra or Lightning refuse; else the error."""
    if isinstance(error, OmegaConfBaseException):
        return unusable(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return disk_full(error)
    return hydra_errors.refusal(error) or error
