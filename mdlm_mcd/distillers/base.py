"""What every distiller shares: rounds, teacher, randomness, checkpoints, guard.

A distiller is a mixin placed before a host's model class. It knows no host by
name; an adapter from `hosts` stands between the two and answers the methods
that begin with `host_`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from .. import __version__, head, losses
from ..checkpoints.formats import unwrap
from ..checkpoints.weights import Weights, check_process, load_weights, model_sizes, read_weights
from ..curriculum import Curriculum, Round
from ..errors import CheckpointError, shown
from ..models.vocabulary import check_mask
from . import loop_state, resume, settings, strategies, validate_run
from .callbacks import batches
from .callbacks.monitor import Health
from .callbacks.preemption import Preemption
from .callbacks.rounds import RoundCheckpoints
from .checkpoint_io import use_safe_files
from .divergence_guard import LossGuard
from .processes import Processes
from .rng import CounterNoise, check_schedule, number
from .teacher import Teacher

log = logging.getLogger(__name__)

CHECKPOINT_KEY = "mdlm_mcd"


class Distiller(CounterNoise, Processes):
    """Rounds of distillation from snapshots of the student itself.

    Subclasses write `distil(round_, x0, valid, condition, micro)`, which answers a
    `head.LossOutput` whose `loss` is a sum over the tokens that `valid` marks.
    """

    parameterization = "subs"  # of the models it is for: weights.PROCESSES
    loss_kinds: tuple[str, ...] = tuple(losses.LOSSES)  # the values of algo.loss
    schedule: tuple[str, ...] = ("delta0", "growth", "tau0", "tau_step")

    # What an adapter answers ------------------------------------------------------

    @staticmethod
    def model_setting(config: DictConfig, name: str) -> tuple[str, Any]:
        """Where the host keeps a setting of the model, and its value."""
        raise NotImplementedError

    def host_inputs(self, batch, uniform) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """A batch as the host would train on it: (x0, valid, condition).

        x0, valid: (batch, length). uniform(name): noise (batch,) that a resumed run
        draws again. condition is handed to `host_denoise` as it is.
        """
        raise NotImplementedError

    def host_alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The host's signal schedule: t (batch,) -> alpha_t (batch,)."""
        raise NotImplementedError

    def host_denoise(self, backbone, z, alpha_t, condition) -> torch.Tensor:
        """Call `backbone` on z (batch, length) as the host would: raw logits."""
        raise NotImplementedError

    def ema_parameters(self):
        """(name, parameter) pairs in the order of the host's EMA."""
        raise NotImplementedError

    def reset_fast_forward(self) -> None:
        """Clear what loading the teacher's checkpoint left of its own run."""
        raise NotImplementedError

    def host_rewind(self, checkpoint, batches: int) -> None:
        """Let a loader whose place is in the checkpoint deal `batches` again."""
        raise NotImplementedError

    def host_record(self, loss_sum, num_tokens) -> None:
        """Enter a training loss into the host's metrics."""
        raise NotImplementedError

    # What a distiller answers -----------------------------------------------------

    def distil(self, round_: Round, x0, valid, condition, micro: int) -> head.LossOutput:
        raise NotImplementedError

    # Construction -----------------------------------------------------------------

    def __init__(self, config: DictConfig, tokenizer, **kwargs):
        # Before the model is built: a typo must not cost the time of building it.
        curriculum = self.check_config(config)
        super().__init__(config, tokenizer, **kwargs)
        self.curriculum = curriculum
        self.teacher = Teacher()
        self.teacher_sha256: str | None = None  # of the weights that it began with
        self.guard = LossGuard(config.algo.guard, config.algo.loss, self.vocab_size)
        self.check_model()

    @classmethod
    def check_config(cls, config: DictConfig) -> Curriculum:
        """Refuse what cannot work; answers the curriculum the config describes."""
        key, found = cls.model_setting(config, "parameterization")
        return settings.check(
            config, key, found, cls.parameterization, cls.loss_kinds, cls.schedule
        )

    @classmethod
    def check_start(cls, config: DictConfig) -> None:
        """Refuse a training that could not begin: for a host to ask before its data.

        Reading and tokenizing that may take hours, and hosts do it first of all.
        """
        cls.check_config(config).check_max_steps(config.trainer.max_steps)
        if config.algo.init_from != "scratch" and not validate_run.resumes(config):
            validate_run.find_teacher(config)

    @classmethod
    def check_resume(cls, config: DictConfig, checkpoint, path: str) -> None:
        """Refuse a checkpoint that another run wrote, or that is none of a run."""
        steps = cls.check_config(config).total_steps
        resume.check_run(config, checkpoint, path, steps)

    def check_model(self) -> None:
        """Refuse a host's model that the method cannot train."""
        name = self.config.data.tokenizer_name_or_path
        check_mask(name, self.tokenizer, self.mask_index, self.vocab_size)
        check_schedule(self.host_alpha, self.config.noise.type, self.config.algo.name)

    # Start and resume -------------------------------------------------------------

    @property
    def teacher_path(self) -> str:
        """`algo.teacher_path`, or the host's `training.finetune_path`."""
        return validate_run.teacher_path(self.config)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.curriculum.check_max_steps(self.trainer.max_steps)
            use_safe_files(self.trainer.strategy)
            validate_run.check_run(self.config, self.trainer, self.backbone)

    def _start(self) -> None:
        """Take the teacher's weights, and nothing else of its run."""
        algo, path = self.config.algo, self.teacher_path
        if algo.init_from != "scratch":
            found = validate_run.find_teacher(self.config)
            source = f"algo.teacher_path={path}"
            weights = read_weights(found)
            self._check_teacher(weights, source)
            self.teacher_sha256 = validate_run.sha256_of(weights, algo.init_from)
            taken = load_weights(
                self.backbone, self.ema_parameters(), weights, algo.init_from, source
            )
            log.info("Distilling %s (%s).", path, taken)
        self.reset_fast_forward()
        if self.ema:
            # Opening a checkpoint brings its decay and count along; the student's
            # average starts over, with the decay configured for this run.
            self.ema = type(self.ema)(
                (p for _, p in self.ema_parameters()), decay=self.config.training.ema
            )
            self.ema.move_shadow_params_to_device(self.device)
            # Under bf16-true a step of 1 - decay would vanish; the hosts' own average
            # was taken before the weights were converted.
            self.ema.shadow_params = [
                p.to(torch.promote_types(p.dtype, torch.float32)) for p in self.ema.shadow_params
            ]

    def _check_teacher(self, weights: Weights, source: str) -> None:
        """Refuse what fits by its shapes alone."""
        check_process(weights, source, self.parameterization)
        validate_run.check_length(weights, source, self.config.model.length)
        validate_run.check_tokenizer(weights, source, self.config.data)
        told = model_sizes(weights.config).get("time_conditioning")
        key, mine = self.model_setting(self.config, "time_conditioning")
        if told is not None and bool(told) != bool(mine):
            raise CheckpointError(
                f"{source} was trained with time_conditioning={bool(told)}, and this "
                f"run has {key}={mine}: set {key}={bool(told)}."
            )

    def on_save_checkpoint(self, checkpoint) -> None:
        counted = loop_state.counts(checkpoint)
        super().on_save_checkpoint(checkpoint)
        micros = self.trainer.accumulate_grad_batches
        self.host_rewind(checkpoint, loop_state.mend(checkpoint, counted, micros))
        # Hosts pickle their config and their tokenizer. As plain containers, without
        # the tokenizer, the file opens everywhere, with `weights_only=True` too.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {
            "config": OmegaConf.to_container(self.config, resolve=True)
        }
        # A slice of `trainer.max_time` has its own time, and not that of all before it.
        checkpoint.get("callbacks", {}).pop("Timer", None)
        algo = self.config.algo
        step = checkpoint["global_step"]
        done = self.curriculum.at(step - 1) if step else None  # of the last step
        checkpoint[CHECKPOINT_KEY] = {
            "version": __version__,
            "algo": algo.name,
            "loss": algo.loss,
            "teacher_path": str(self.teacher_path),
            "teacher_sha256": self.teacher_sha256,
            "round": done and done.index + 1,
            "delta": done and done.delta,
            "tau": done and done.tau,
            "guard": self.guard.running,
            "split": self.split,
            "teacher": None if self.teacher.round is None else self.teacher.state_dict(),
        }

    @classmethod
    def load_from_checkpoint(cls, path, *args, config=None, **kwargs):
        """Lightning's, but for what a host opens before it trains.

        That is its `training.finetune_path`, a file which torch may refuse. `_start`
        reads it, and no more of it than weights.
        """
        if config is not None and config.mode == "train":
            return cls(config, kwargs["tokenizer"])
        if isinstance(path, (str, os.PathLike)):
            path = validate_run.find_evaluated(os.fspath(path))
        try:
            model = _lightnings_load(cls)(path, *args, config=config, **kwargs)
            if model.ema:
                resume.check_average(model.ema.state_dict(), [p for _, p in model.ema_parameters()])
            return model
        except Exception as error:
            if not resume.is_odd(error):
                raise
            raise CheckpointError(
                f"eval.checkpoint_path={path} does not fit this model "
                f"({type(error).__name__}: {shown(error, 200)}): use the `model`, "
                "`data` and `algo` settings it was trained with."
            ) from error

    def on_load_checkpoint(self, checkpoint) -> None:
        trainer = getattr(self, "_trainer", None)
        unwrap(checkpoint, self)
        if self.ema and "ema" not in checkpoint:
            raise CheckpointError(
                "The checkpoint holds no EMA, and this model would show that of its "
                "random start: set training.ema=0 to use the raw weights."
            )
        # Without a trainer that fits, somebody opens the file to look or to sample.
        if trainer is None or trainer.state.fn != "fit":
            super().on_load_checkpoint(checkpoint)
            return
        path = trainer.ckpt_path
        self.check_resume(self.config, checkpoint, path)
        if not strategies.is_sharded(trainer):
            parameters = [p for _, p in self.ema_parameters()]
            resume.check_shapes(checkpoint, path, self.state_dict(), parameters, bool(self.ema))
        super().on_load_checkpoint(checkpoint)
        note, step = checkpoint[CHECKPOINT_KEY], checkpoint["global_step"]
        self.teacher_sha256 = note.get("teacher_sha256")
        self.resplit(checkpoint, note.get("split"))
        self.guard.running = note.get("guard")
        if step >= self.curriculum.total_steps:
            _say("%s is finished at step %d; nothing to do.", path, step)
            return
        round_ = self.curriculum.at(step)
        kept = self.config.algo.snapshot == "fixed" and step > 0
        if round_.is_first_step and not kept:
            return  # a new teacher is about to be taken from the student
        last = (step - 1) // self.curriculum.steps_per_round
        if note["teacher"] is None or note["teacher"]["round"] != last:
            raise resume.does_not_fit(path, f"it has no teacher of round {last + 1}")
        self.teacher.load_state_dict(note["teacher"], like=self.backbone)

    @property
    def checkpoints_folder(self) -> str:
        return os.path.join(self.config.checkpointing.save_dir, "checkpoints")

    def configure_callbacks(self):
        folder = self.checkpoints_folder
        rounds = RoundCheckpoints(folder, self.curriculum)
        algo = self.config.algo
        health = Health(algo.name, self.curriculum.steps_per_round, number(algo, "min_entropy"))
        return [
            # Batches first, who know more of an end without any than rounds do.
            *super().configure_callbacks(),
            batches.CountBatches(),
            health,
            rounds,
            Preemption(folder),
            resume.Restoring(),
        ]

    # One step ---------------------------------------------------------------------

    def on_before_batch_transfer(self, batch, dataloader_idx):
        batches.check_ids(self, batch)
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def training_step(self, batch, batch_idx):
        round_ = self.curriculum.at(self.global_step)
        micros = self.trainer.accumulate_grad_batches
        micro = batch_idx % micros
        self.seed_global("micro-batch", micro)
        count = len(batch["input_ids"])
        x0, valid, condition = self.host_inputs(
            batch, lambda name: self.draw_uniform(count, micro, name)
        )
        parts = self.distil(round_, x0, valid, condition, micro)
        tokens = valid.sum().clamp(min=1)
        loss = parts.loss / tokens
        # An epoch's end cuts a step short; the optimizer steps all the same.
        last = micro == micros - 1 or self.trainer.is_last_batch
        self._watch(round_, parts, valid, first=micro == 0, last=last)
        self.host_record(loss.detach() * tokens, tokens)
        self._log_step(round_, parts, loss.detach(), tokens)
        return loss

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.trainer.state.fn == "fit":
            self.seed_global("validation")

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The schedule of the views, told to the networks: t (batch,) -> alpha_t."""
        return self.host_alpha(t)

    def encode(self, backbone, z, t, condition) -> head.HiddenStates:
        """`backbone` on z (batch, length) at times t (batch,), short of its logits."""
        alpha_t = self.alpha(t)
        return head.encode(backbone, lambda net: self.host_denoise(net, z, alpha_t, condition))

    def _log_step(self, round_: Round, parts: head.LossOutput, loss, tokens) -> None:
        rows = max(1, parts.distil_rows + parts.reveal_rows)
        shown = {"round": float(round_.index + 1), "delta": round_.delta, "tau": round_.tau}
        quiet = {
            # Of the loss: kl + ce = trainer/loss.
            "kl": parts.distil / tokens,
            "ce": parts.reveal / tokens,
            "rows_distil": parts.distil_rows / tokens,
            "rows_reveal": parts.reveal_rows / tokens,
            "student_entropy": parts.entropy / rows,
        }
        for some, bar in ((shown, True), (quiet, False)):
            some = {f"{self.config.algo.name}/{k}": v for k, v in some.items()}
            self.log_dict(some, on_step=True, on_epoch=False, prog_bar=bar)
        self.log("trainer/loss", loss, on_step=True, prog_bar=True, sync_dist=True)


_say = rank_zero_only(log.info)


def _lightnings_load(cls: type[Distiller]):
    # Out here, since the word `super` gives a method's frame a `__class__`, and
    # `save_hyperparameters` of Lightning 2.2 takes such frames for an `__init__`.
    return super(Distiller, cls).load_from_checkpoint
