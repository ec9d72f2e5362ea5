"""Algorithm 1: distil in rounds, each from a snapshot of the student itself.

    for each round:                                       on_train_batch_start
        theta^- := stopgrad(theta)                        begin_round
        for each step of it, with its delta and tau:      training_step
            take x0 from the data
            draw u, t and s; couple (z_t, z_s)            distil (mcd.py)
            theta := theta - eta grad of Eq. 14

A distiller is a mixin before a host's model class; it knows no host by name, and an
adapter from `hosts` implements the methods that begin with `host_`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .. import head, losses
from ..checkpoints.files import check_writable
from ..checkpoints.formats import unwrap
from ..curriculum import Curriculum, Round
from ..errors import ConfigError
from ..models import context
from ..models.compiling import compile_blocks
from ..models.vocabulary import check_ids, check_mask
from . import loop_state, resume, settings, start
from .callbacks.global_batch import GlobalBatch
from .callbacks.monitor import Monitor
from .callbacks.saving import SaveRounds
from .checkpoint_io import use_safe_files
from .divergence_guard import LossGuard
from .rng import StepNoise, seed_global
from .teacher import Teacher, shard, whole


class Distiller:
    """A LightningModule's part that distils; see `mcd.MCD` for a subclass."""

    parameterization = "subs"  # of the models it is for: weights.PROCESSES
    loss_kinds: tuple[str, ...] = tuple(losses.LOSSES)  # the values of algo.loss
    schedule: tuple[str, ...] = ("delta0", "growth", "tau0", "tau_step")  # of `Curriculum`
    least: Mapping[str, int] = {}  # whole numbers of algo, and the least that each may be
    above: Mapping[str, float] = {}  # finite numbers of algo, and what each has to be above

    # Algorithm 1 ------------------------------------------------------------------

    def on_train_batch_start(self, batch, batch_idx):
        index = self.curriculum.at(self.global_step).index
        if self.teacher.round != index:  # micro-batches of a step share the teacher
            with whole(self.trainer.strategy.model):
                self.begin_round(index)
        return super().on_train_batch_start(batch, batch_idx)

    def begin_round(self, index: int) -> None:
        """Take the round's teacher: theta^- := stopgrad(theta), or as algo.snapshot asks."""
        kind = self.config.algo.snapshot
        if kind == "fixed" and self.teacher.round is not None:
            self.teacher.round = index
            return
        own = [p for _, p in self.ema_parameters()]
        if kind == "ema":
            self.ema.store(own)
            self.ema.copy_to(own)
        self.teacher.snapshot(self.backbone, index)
        if kind == "ema":
            self.ema.restore(own)

    def training_step(self, batch, batch_idx):
        round_ = self.curriculum.at(self.global_step)  # its delta and tau
        micro = batch_idx % self.trainer.accumulate_grad_batches
        seed_global(self, "micro-batch", micro)
        given = context.of(batch)
        noise = StepNoise(self, len(batch["input_ids"]), micro, given)
        x0, valid, condition = self.host_inputs(batch, noise.uniform)
        if given is not None:
            valid = valid.masked_fill(given, 0)
        parts = self.distil(round_, x0, valid, condition, noise)  # u, t, s, pair, loss
        count = self.count_tokens(valid, parts)
        tokens = count.clamp(min=1)
        self.host_record(parts.loss.detach(), tokens)
        if step := self.global_batch.add(self, round_, parts, count, micro):
            self._log_step(round_, step)
        return parts.loss / tokens

    def distil(
        self, round_: Round, x0: Tensor, valid: Tensor, condition: Any, noise: StepNoise
    ) -> head.LossOutput:
        """Return the loss of a micro-batch, a sum over the tokens that `valid` marks.

        x0, valid: (batch, length), as `host_inputs` returns them, with its condition. Given
        tokens (`noise.given`) are not valid, and not masked where u is `noise.u`.
        """
        raise NotImplementedError

    def count_tokens(self, valid: Tensor, parts: head.LossOutput) -> Tensor:
        """Return the number of tokens that a step's loss is a mean over: all valid ones."""
        return valid.sum()

    def encode(self, backbone, z: Tensor, alpha_t: Tensor, condition) -> head.HiddenStates:
        """Run `backbone` on z (batch, length) at alpha_t (batch,), short of its logits."""
        return head.encode(backbone, lambda net: self.host_denoise(net, z, alpha_t, condition))

    def supervise(self, round_: Round, *given, kind="", subs=True, **how) -> head.LossOutput:
        """Return Eq. 14, or another algo.loss, at the round's tau.

        given, how: as for `head.supervise`. kind: in the place of algo.loss. subs: False for
        plain softmaxes, of a masked model too.
        """
        algo = self.config.algo
        return head.supervise(
            kind or algo.loss,
            *given,
            tau=round_.tau,
            mask_index=self.loss_mask if subs else None,
            chunk=algo.head_chunk,
            compile=self.compiled,
            **how,
        )

    @property
    def loss_mask(self) -> int | None:
        """Return the id that no token of the text may have; None without a mask."""
        return self.mask_index if self.parameterization == "subs" else None

    def _log_step(self, round_: Round, step: dict[str, Tensor]) -> None:
        tokens, rows = step["tokens"].clamp(min=1), step["distil_rows"] + step["reveal_rows"]
        name = self.config.algo.name
        settings_now = {"round": round_.index + 1, "delta": round_.delta, "tau": round_.tau}
        for key, value in settings_now.items():
            # On the CPU, where the progress bar reads them without waiting for the device.
            self.log(f"{name}/{key}", torch.tensor(value, dtype=torch.float32), prog_bar=True)
        for key, value in (
            ("kl", step["distil"] / tokens),  # kl + ce = trainer/loss
            ("ce", step["reveal"] / tokens),
            ("rows_distil", step["distil_rows"] / tokens),
            ("rows_reveal", step["reveal_rows"] / tokens),
            ("student_entropy", step["entropy"] / rows.clamp(min=1)),
        ):
            self.log(f"{name}/{key}", value)
        self.log("trainer/loss", step["loss"] / tokens, prog_bar=True)

    # What an adapter implements ---------------------------------------------------

    @staticmethod
    def model_setting(config: DictConfig, name: str) -> tuple[str, Any]:
        """Return the key under which the host has a setting of the model, and its value."""
        raise NotImplementedError

    def host_inputs(self, batch, uniform) -> tuple[Tensor, Tensor, Any]:
        """Return a batch as the host would train on it: (x0, valid, condition).

        x0, valid: (batch, length). uniform(name): noise (batch,) that a resumed run
        draws again. condition is handed to `host_denoise` as it is.
        """
        raise NotImplementedError

    def host_alpha(self, t: Tensor) -> Tensor:
        """Return the host's signal schedule alpha_t (batch,) at t (batch,)."""
        raise NotImplementedError

    def host_denoise(self, backbone, z: Tensor, alpha_t: Tensor, condition) -> Tensor:
        """Call `backbone` on z (batch, length) as the host would: raw logits."""
        raise NotImplementedError

    def host_record(self, loss_sum: Tensor, num_tokens: Tensor) -> None:
        """Enter a training loss into the host's metrics."""
        raise NotImplementedError

    def ema_parameters(self):
        """Return (name, parameter) pairs in the order of the EMA of all public hosts."""
        return itertools.chain(self.backbone.named_parameters(), self.noise.named_parameters())

    # Construction -----------------------------------------------------------------

    def __init__(self, config: DictConfig, tokenizer, **kwargs):
        # Before the model is built: a typo must not cost the time of building it.
        curriculum = self.check_config(config)
        super().__init__(config, tokenizer, **kwargs)
        self.curriculum = curriculum
        self.compiled = config.algo.get("compile", False)  # configs of 0.1.0 have no such key
        self.teacher = Teacher(self.compiled)
        if self.compiled:
            compile_blocks(self.backbone)
        self.teacher_sha256: str | None = None  # of the weights that it began with
        self.guard = LossGuard(config.algo.guard, config.algo.loss, self.vocab_size)
        self.global_batch = GlobalBatch(self.guard)
        self._rows: loop_state.Rows | None = None  # of the training in progress
        self.check_model()

    @classmethod
    def check_config(cls, config: DictConfig) -> Curriculum:
        """Refuse what cannot work; return the curriculum that the config describes."""
        return settings.check(config, cls)

    @classmethod
    def check_start(cls, config: DictConfig) -> None:
        """Refuse a training that could not begin, before a host reads its data for hours."""
        cls.check_config(config).check_max_steps(config.trainer.max_steps)
        if config.algo.init_from != "scratch" and not resume.resumes(config):
            start.find_teacher(config)

    @classmethod
    def check_resume(cls, config: DictConfig, checkpoint, path: str) -> None:
        """Refuse a checkpoint that another run wrote, or that is none of a run."""
        resume.check_run(config, checkpoint, path, cls.check_config(config).total_steps)

    def check_model(self) -> None:
        """Refuse a host's model that the method cannot train."""
        name = self.config.data.tokenizer_name_or_path
        check_mask(name, self.tokenizer, self.mask_index, self.vocab_size)
        settings.check_schedule(self.host_alpha, self.config.noise.type, self.config.algo.name)

    # A fit ------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            resume.check_same_start(self.config, self.trainer.strategy)
            settings.check_trainer(self.trainer, self.config)
            self.curriculum.check_max_steps(self.trainer.max_steps)
            folder = str(self.config.checkpointing.save_dir)
            check_writable(f"checkpointing.save_dir={folder}", os.path.join(folder, "checkpoints"))
            use_safe_files(self.trainer.strategy)
            if isinstance(self.trainer.strategy, FSDPStrategy):
                # From here on no process has all of the weights.
                self.teacher_sha256 = start.load_teacher(self)
                self.teacher.prepare(self.backbone)

    def configure_callbacks(self):
        algo = self.config.algo
        folder = os.path.join(self.config.checkpointing.save_dir, "checkpoints")
        return [
            *super().configure_callbacks(),
            self.global_batch,
            Monitor(algo.name, settings.number(algo, "min_entropy")),
            SaveRounds(folder, self.curriculum),
        ]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not isinstance(self.trainer.strategy, FSDPStrategy) and self.trainer.ckpt_path is None:
            self.teacher_sha256 = start.load_teacher(self)
        if self.teacher.backbone is not None:
            # As the student was by now: some precisions convert it.
            self.teacher.backbone.to(self.device, next(self.backbone.parameters()).dtype)

    def on_train_start(self) -> None:
        self._rows = loop_state.Rows(self.trainer, self.config.seed)
        self.backbone.train()  # one of transformers is opened in eval mode, without dropout
        super().on_train_start()
        self._rows.begin()
        if self.config.algo.teacher_placement == "sharded":
            self.teacher.backbone = shard(self.trainer.strategy, self.teacher.backbone)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._rows.begin_epoch()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if not self.trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            # Lightning would begin one such epoch after the other, for ever.
            raise ConfigError(
                f"data.train={self.config.data.train} gives not one batch: give more text, a "
                "smaller batch, or a loader that can be read again."
            )

    def on_before_batch_transfer(self, batch, dataloader_idx):
        # On the CPU, where it waits for no GPU.
        if isinstance(batch, Mapping) and "input_ids" in batch:
            batch = context.marked(batch)
            validates = self.trainer.validating or self.trainer.sanity_checking
            split = "valid" if validates else "train"
            check_ids(
                batch["input_ids"],
                self.vocab_size,
                self.loss_mask,
                f"data.{split}={self.config.data.get(split)}",
                self.tokenizer,
                batch.get("attention_mask"),
            )
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.trainer.state.fn == "fit":
            seed_global(self, "validation")

    def backward(self, loss, *args, **kwargs):
        super().backward(loss * self.global_batch.weight, *args, **kwargs)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        by_norm = gradient_clip_algorithm in (None, "norm")
        if gradient_clip_val and by_norm and isinstance(self.trainer.strategy, FSDPStrategy):
            # Each process has a part of the norm, and Lightning refuses.
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    # Checkpoints ------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint) -> None:
        self.global_batch.read()  # no file of a step that the guard stops
        counted = loop_state.counts(checkpoint)
        super().on_save_checkpoint(checkpoint)
        micros = self.trainer.accumulate_grad_batches
        loop_state.mend(checkpoint, counted, micros, self._rows and self._rows.epoch)
        # Hosts pickle their config and their tokenizer: plain containers open everywhere.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {
            "config": OmegaConf.to_container(self.config, resolve=True)
        }
        # A slice of `trainer.max_time` has its own time, and not that of all before it.
        checkpoint.get("callbacks", {}).pop("Timer", None)
        checkpoint[resume.KEY] = resume.note(self, checkpoint["global_step"])

    def on_load_checkpoint(self, checkpoint) -> None:
        trainer = getattr(self, "_trainer", None)
        unwrap(checkpoint, self)
        # Without a trainer that fits, the file is opened for its weights alone.
        fits = trainer is not None and trainer.state.fn == "fit"
        if fits:
            self.check_resume(self.config, checkpoint, trainer.ckpt_path)
        if self.ema:
            parameters = [p for _, p in self.ema_parameters() if p.requires_grad]
            resume.check_average(checkpoint, parameters)
        super().on_load_checkpoint(checkpoint)
        if fits:
            resume.restore(self, checkpoint, trainer.ckpt_path)

    @classmethod
    def load_from_checkpoint(cls, path, *args, config=None, **kwargs):
        """Load as Lightning does, but for what a host opens before it trains.

        That is its `training.finetune_path`, which `start.load_teacher` reads. Raises
        CheckpointError for what is no checkpoint of Lightning.
        """
        if config is not None and config.mode == "train":
            return cls(config, kwargs["tokenizer"])
        if isinstance(path, (str, os.PathLike)):
            path = start.find(os.fspath(path), "eval.checkpoint_path") or path
            start.check_evaluated(os.fspath(path))
        return _lightnings_load(cls)(path, *args, config=config, **kwargs)


def _lightnings_load(cls: type[Distiller]):
    # Out here, since the word `super` gives a method's frame a `__class__`, and
    # `save_hyperparameters` of Lightning 2.2 takes such frames for an `__init__`.
    return super(Distiller, cls).load_from_checkpoint
