"""What every distiller shares: rounds, teacher, randomness, checkpoints, guard.

A distiller is a mixin placed before a host's model class. It knows no host by
name; an adapter from `hosts` stands between the two and answers the methods
that begin with `host_`.
"""

from __future__ import annotations

import logging
import os
from fractions import Fraction

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from .. import __version__, coupling, head, losses
from ..curriculum import Curriculum, Round
from ..errors import CheckpointError, ConfigError
from ..teacher import Teacher
from ..weights import load_weights, read_weights
from .guard import LossGuard, StepSums
from .rounds import RoundCheckpoints

log = logging.getLogger(__name__)

CHECKPOINT_KEY = "mdlm_mcd"
INIT_FROM = ("ema", "raw", "scratch")


def number(algo: DictConfig, key: str) -> float | None:
    """algo[key], where the command line may also say a fraction such as 1/512.

    Raises ConfigError for anything that is no number.
    """
    value = algo[key]
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"algo.{key}={value} is no number: write it like 0.05 or 1/20."
        ) from error


class Distiller:
    """Rounds of distillation from snapshots of the student itself.

    Subclasses write `distil(stage, x0, valid, batch, micro) -> head.Supervision`,
    whose `loss` is a sum over the tokens that `valid` marks.
    """

    # What an adapter answers ------------------------------------------------------

    def host_alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The host's signal schedule: t (batch,) -> alpha_t (batch,)."""
        raise NotImplementedError

    def host_denoise(self, backbone, z, alpha_t, batch) -> torch.Tensor:
        """Call `backbone` on z (batch, length) as the host would: raw logits."""
        raise NotImplementedError

    def host_named_parameters(self):
        """(name, parameter) pairs in the order of the host's EMA."""
        raise NotImplementedError

    def host_forget_progress(self) -> None:
        """Clear what loading the teacher's checkpoint left of its own run."""
        raise NotImplementedError

    def host_record(self, loss_sum, num_tokens) -> None:
        """Enter a training loss into the host's metrics."""
        raise NotImplementedError

    # What a distiller answers -----------------------------------------------------

    def distil(self, stage: Round, x0, valid, batch, micro: int) -> head.Supervision:
        raise NotImplementedError

    # Construction -----------------------------------------------------------------

    def __init__(self, config: DictConfig, tokenizer, **kwargs):
        # Before the model is built: a typo must not cost the time of building it.
        curriculum = self.check_config(config, tokenizer)
        super().__init__(config, tokenizer, **kwargs)
        self.curriculum = curriculum
        self.teacher = Teacher()
        self.guard = LossGuard(config.algo.guard, config.algo.loss, self.vocab_size)
        self._step_sums: torch.Tensor | None = None  # of the step in progress
        self._check_mask()

    def check_config(self, config: DictConfig, tokenizer) -> Curriculum:
        """Refuse what cannot work; answers the curriculum the config describes."""
        algo = config.algo
        if algo.parameterization != "subs":
            raise ConfigError(
                f"algo.parameterization={algo.parameterization} does not fit "
                f"algo={algo.name}, which needs a masked model under SUBS: set "
                "algo.parameterization=subs."
            )
        if algo.init_from not in INIT_FROM:
            raise ConfigError(
                f"algo.init_from={algo.init_from} is unknown: choose one of "
                f"{', '.join(INIT_FROM)}."
            )
        if algo.head_chunk < 1:
            raise ConfigError(
                f"algo.head_chunk={algo.head_chunk} must be at least 1: it is the "
                "number of rows projected onto the vocabulary at a time."
            )
        losses.get(algo.loss)
        return Curriculum(
            rounds=algo.rounds,
            steps_per_round=algo.steps_per_round,
            delta0=number(algo, "delta0"),
            tau0=number(algo, "tau0"),
            tau_step=number(algo, "tau_step"),
        )

    def _check_mask(self) -> None:
        name = self.config.data.tokenizer_name_or_path
        token = getattr(self.tokenizer, "mask_token", None)
        index = self.mask_index
        usable = isinstance(index, int) and 0 <= index < self.vocab_size
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if usable and token is not None and index == unknown:
            usable = token == self.tokenizer.unk_token
        if not usable:
            raise ConfigError(
                f"data.tokenizer_name_or_path={name} has mask token {token!r} with id "
                f"{index}, which is not one of the model's {self.vocab_size} tokens: "
                "use a tokenizer whose mask token is in its vocabulary, or one "
                "without, to which the host adds its own."
            )

    # Start and resume -------------------------------------------------------------

    @property
    def teacher_path(self) -> str:
        """`algo.teacher_path`, or the host's `training.finetune_path`."""
        training = self.config.get("training", {})
        return self.config.algo.teacher_path or training.get("finetune_path") or ""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.curriculum.check_max_steps(self.trainer.max_steps)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.ckpt_path is None:
            self._start()
        self.teacher.to(self.device)

    def _start(self) -> None:
        """Take the teacher's weights, and nothing else of its run."""
        algo, path = self.config.algo, self.teacher_path
        if algo.init_from != "scratch":
            if not path:
                raise ConfigError(
                    f"algo.teacher_path is empty, and algo={algo.name} starts from a "
                    "trained model: name its checkpoint (or set algo.init_from=scratch "
                    "to distil from random weights)."
                )
            # Hydra may have moved to the run's folder; a relative path is the user's.
            places = (path, to_absolute_path(path))
            found = next(filter(os.path.exists, places), path)
            taken = load_weights(
                self.backbone,
                self.host_named_parameters(),
                read_weights(found),
                algo.init_from,
                f"algo.teacher_path={path}",
            )
            log.info("Distilling %s (%s).", path, taken)
        self.host_forget_progress()
        if self.ema:
            # Opening a checkpoint brings its decay and count along; the student's
            # average starts over, with the decay configured for this run.
            self.ema = type(self.ema)(
                (p for _, p in self.host_named_parameters()),
                decay=self.config.training.ema,
            )
            self.ema.move_shadow_params_to_device(self.device)

    def on_save_checkpoint(self, checkpoint) -> None:
        super().on_save_checkpoint(checkpoint)
        algo = self.config.algo
        step = checkpoint["global_step"]
        done = self.curriculum.at(step - 1) if step else None  # of the last step
        checkpoint[CHECKPOINT_KEY] = {
            "version": __version__,
            "algo": algo.name,
            "loss": algo.loss,
            "teacher_path": str(self.teacher_path),
            "round": done and done.index + 1,
            "delta": done and done.delta,
            "tau": done and done.tau,
            "guard": self.guard.running,
            "teacher": None
            if self.teacher.round is None
            else self.teacher.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint) -> None:
        trainer = getattr(self, "_trainer", None)
        if not self.ema or "ema" in checkpoint:
            super().on_load_checkpoint(checkpoint)
        elif trainer is not None or self.config.mode != "train":
            raise CheckpointError(
                "The checkpoint holds no EMA, and this model would show that of its "
                "random start: set training.ema=0 to use the raw weights."
            )
        # else: a host opens its `training.finetune_path`; `_start` sees to the EMA.

        # Without a trainer that fits, somebody opens the file to look or to sample.
        if trainer is None or trainer.state.fn != "fit":
            return
        held, path = checkpoint.get(CHECKPOINT_KEY), trainer.ckpt_path
        if held is None:
            raise CheckpointError(
                f"checkpointing.resume_ckpt_path={path} was not written by "
                f"algo={self.config.algo.name}, so there is no distillation to resume: "
                "to distil from it set algo.teacher_path to it, and "
                "checkpointing.resume_from_ckpt=false or another run folder."
            )
        self.guard.running = held.get("guard")
        step = checkpoint["global_step"]
        if step >= self.curriculum.total_steps:
            return  # a finished run: there is no next step to have a teacher for
        stage = self.curriculum.at(step)
        if stage.is_first_step:
            return  # a new teacher is about to be taken from the student
        if held["teacher"] is None or held["teacher"]["round"] != stage.index:
            written = (
                "none" if held["teacher"] is None else held["teacher"]["round"] + 1
            )
            raise CheckpointError(
                f"checkpointing.resume_ckpt_path={path} stands at step {step} with the "
                f"teacher of round {written}, but algo.steps_per_round="
                f"{self.curriculum.steps_per_round} puts that step into round "
                f"{stage.index + 1}: resume with the settings of the interrupted run."
            )
        self.teacher.load_state_dict(held["teacher"], like=self.backbone)

    def configure_callbacks(self):
        folder = os.path.join(self.config.checkpointing.save_dir, "checkpoints")
        rounds = RoundCheckpoints(folder, self.curriculum.steps_per_round)
        return [*super().configure_callbacks(), rounds]

    # One step ---------------------------------------------------------------------

    def training_step(self, batch, batch_idx):
        stage = self.curriculum.at(self.global_step)
        if self.teacher.round != stage.index:
            # Once a round: micro-batches of a step share it, validation never gets
            # here, and the weights are the student's own, not its average.
            self.teacher.snapshot(self.backbone, stage.index)
        valid = batch["attention_mask"]
        micros = self.trainer.accumulate_grad_batches
        micro = batch_idx % micros
        parts = self.distil(stage, batch["input_ids"], valid, batch, micro)
        tokens = valid.sum().clamp(min=1)
        loss = parts.loss / tokens
        # An epoch's end cuts a step short; the optimizer steps all the same.
        last = micro == micros - 1 or self.trainer.is_last_batch
        self._watch(stage, parts, tokens, first=micro == 0, last=last)
        self.host_record(loss.detach() * tokens, tokens)
        self._log_step(stage, parts, loss.detach(), tokens)
        return loss

    def _watch(self, stage, parts: head.Supervision, tokens, first, last) -> None:
        """Let the guard see each optimizer step as a whole."""
        if self.guard.mode == "off":
            return
        sums = torch.stack(
            [
                torch.as_tensor(x, device=self.device).float()
                for x in (
                    parts.distil, parts.reveal, parts.distil_rows, parts.reveal_rows,
                    tokens,
                )
            ]
        )  # fmt: skip
        fresh = first or self._step_sums is None
        self._step_sums = sums if fresh else self._step_sums + sums
        if last:
            sums = self._step_sums
            if self.trainer.world_size > 1:
                # All processes see the same sums, so all of them stop or none does.
                sums = self.all_gather(sums).sum(0)
            self.guard.check(stage, self.global_step, StepSums(*sums.tolist()))

    def _log_step(self, stage: Round, parts: head.Supervision, loss, tokens) -> None:
        rows = max(1, parts.distil_rows + parts.reveal_rows)
        shown = {
            "mcd/round": float(stage.index + 1),
            "mcd/delta": stage.delta,
            "mcd/tau": stage.tau,
        }
        quiet = {
            # Of the loss: kl + ce = trainer/loss.
            "mcd/kl": parts.distil / tokens,
            "mcd/ce": parts.reveal / tokens,
            "mcd/rows_distil": parts.distil_rows / tokens,
            "mcd/rows_reveal": parts.reveal_rows / tokens,
            "mcd/student_entropy": parts.entropy / rows,
        }
        self.log_dict(shown, on_step=True, on_epoch=False, prog_bar=True)
        self.log_dict(quiet, on_step=True, on_epoch=False)
        self.log("trainer/loss", loss, on_step=True, prog_bar=True, sync_dist=True)

    # Randomness -------------------------------------------------------------------

    def _rows(self, count: int, micro: int) -> tuple[torch.Tensor, int]:
        """Places of this micro-batch's rows in the global batch, and its size.

        Row i of the batch that a sampler deals to rank r sits at i * world + r, so
        one process and several draw the same noise for the same sequence.
        """
        world, rank = self.trainer.world_size, self.global_rank
        nominal = max(self.config.loader.batch_size, count)
        places = (micro * nominal + torch.arange(count)) * world + rank
        return places, nominal * self.trainer.accumulate_grad_batches * world

    def draw_times(self, stage: Round, count: int, micro: int):
        """This micro-batch's share of the step's (t, s); each (count,) float64."""
        places, total = self._rows(count, micro)
        generator = coupling.counter_generator(self.config.seed, self.global_step, "t")
        t, s = coupling.sample_times(
            total, stage.delta, generator=generator,
            antithetic=self.config.training.antithetic_sampling,
        )  # fmt: skip
        return self._place(t[places]), self._place(s[places])

    def draw_u(self, shape, micro: int, name: str = "u") -> torch.Tensor:
        """This micro-batch's trajectory noise, (batch, length)."""
        places, total = self._rows(shape[0], micro)
        generator = coupling.counter_generator(self.config.seed, self.global_step, name)
        algo = self.config.algo
        u = coupling.draw_u(
            total,
            shape[1],
            algo.u_law,
            step=number(algo, "u_step"),
            generator=generator,
        )[places]
        if self.ignore_bos:
            u[:, 0] = 0.0  # visible at every time
        return u.to(self.device)

    def _place(self, t: torch.Tensor) -> torch.Tensor:
        # Apple's GPUs have no float64.
        return (
            t.float().to(self.device)
            if self.device.type == "mps"
            else t.to(self.device)
        )
