"""Refuse settings that silently give a wrong result or lose work.

What a library refuses by itself, before any work, is left to it.
"""

import math
from numbers import Integral, Real

from omegaconf import OmegaConf

from ..errors import ConfigError


def _whole(x, least=1):
    return isinstance(x, Integral) and not isinstance(x, bool) and x >= least


def _number(x, least=0.0):
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) and x >= least


# (keys, test, what to give); what others are computed from comes first.
RULES = (
    ("seed", lambda x: _whole(x, 0) and x < 2**32, "a whole number from 0 to 2^32 - 1"),
    (
        "trainer.devices trainer.num_nodes loader.global_batch_size "
        "loader.eval_global_batch_size loader.batch_size loader.eval_batch_size "
        "trainer.accumulate_grad_batches model.hidden_size model.n_heads model.n_blocks "
        "model.cond_dim data.vocab_size sampling.steps sampling.num_sample_batches "
        "eval.perplexity_batch_size lr_scheduler.num_training_steps",
        _whole,
        "a whole number of at least 1",
    ),
    ("trainer.max_steps", lambda x: _whole(x, -1) and x != 0, "at least 1, or -1 for no end"),
    ("trainer.gradient_clip_val", lambda x: x is None or _number(x), "a number from 0 on, or null"),
    ("trainer.limit_train_batches", lambda x: _number(x) and x > 0, "a number above 0"),
    # Lightning takes a time as well.
    (
        "trainer.val_check_interval",
        lambda x: not isinstance(x, Real) or (_number(x) and x > 0),
        "a number above 0",
    ),
    ("model.length", lambda x: _whole(x, 3), "at least 3, for BOS, EOS and a token"),
    ("training.sampling_eps", lambda x: _number(x) and x < 1, "a number from 0 on, below 1"),
    ("noise.eps", _number, "a small number"),
    ("training.start", lambda x: x in (None, "counts"), "counts, or null"),
    ("sampling.p_nucleus", lambda x: _number(x) and 0 < x <= 1, "a number above 0, up to 1"),
    # Other values would be taken for true, also `no`.
    (
        "data.wrap data.insert_train_eos data.insert_valid_eos "
        "training.antithetic_sampling algo.time_conditioning algo.causal_attention "
        "sampling.use_float64 eval.disable_ema eval.generate_samples "
        "eval.compute_generative_perplexity checkpointing.resume_from_ckpt",
        lambda x: isinstance(x, bool),
        "true or false",
    ),
)


def check(config) -> None:
    """Refuse the first setting out of range. Raises ConfigError."""
    for keys, fits, words in RULES:
        for key in keys.split():
            value = OmegaConf.select(config, key, default=...)
            if value is not ... and not fits(value):
                raise ConfigError(f"{key}={value} is out of range: give {words}.")
    heads, size = config.model.n_heads, config.model.hidden_size
    if size % (2 * heads):
        raise ConfigError(
            f"model.hidden_size={size} is not shared evenly by model.n_heads={heads}: "
            f"take a multiple of {2 * heads}, as rotary positions turn pairs."
        )
    sizes = "loader.batch_size trainer.devices trainer.num_nodes trainer.accumulate_grad_batches"
    wanted = config.loader.global_batch_size
    rows = math.prod(OmegaConf.select(config, key) for key in sizes.split())
    if config.mode == "train" and rows != wanted:  # it is rounded up
        raise ConfigError(
            f"loader.global_batch_size={wanted} is not what a step would see, {rows} rows: set it "
            f"to {rows}, or take a loader.batch_size that divides it."
        )
