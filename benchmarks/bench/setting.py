"""The two settings: what is learned, what judges samples, and models as candidates."""

from __future__ import annotations

import string
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.evaluation import embedded
from mdlm_mcd.evaluation.candidates import Candidate
from mdlm_mcd.evaluation.evaluators import CallableEvaluator
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.models.noise import NOISES

from . import train
from .language import Language, Oracle
from .sizes import SIZES, Part

TEACHER_RECIPE = ("algo=mdlm", "+recipe=laptop_teacher")
TEACHER_OPTIMIZER = (
    "optim.lr=2e-3",
    "optim.beta2=0.99",
    "training.ema=0.995",
    "lr_scheduler._target_=transformers.get_cosine_schedule_with_warmup",
    "lr_scheduler.num_warmup_steps=50",
    "+lr_scheduler.num_training_steps=${trainer.max_steps}",
)


class Setting:
    """A part of the benchmark at one size, its files in `folder`.

    Subclasses answer `tokenizer`, `rows` (training data), `evaluator` and `held_out`
    (rows, length), and say what is trained before everything else (`preparations`).
    """

    preparations: tuple[str, ...] = ("teacher",)

    def __init__(self, part: Part, folder: Path):
        self.part, self.folder = part, folder

    @cached_property
    def config(self):
        return train.compose("algo=mdlm", *self.part.model)

    @property
    def length(self) -> int:
        return self.config.model.length

    def alpha(self, t):
        return NOISES[self.config.noise.type](self.config.noise.eps)(t)[1]

    def overrides(self, *more: str) -> list[str]:
        return [*more[:1], *self.part.model, *more[1:]]

    def prepare(self, what: str) -> train.Weights:
        """Train a teacher (or the judge) by its recipe."""
        recipe, steps = self.recipes()[what]
        given = [*recipe, *self.part.model, f"trainer.max_steps={steps}", "seed=1"]
        return train.fit(given, self.tokenizer, self.rows)[1]

    def recipes(self) -> dict[str, tuple[tuple[str, ...], int]]:
        """What can be prepared: overrides and training steps by name."""
        steps, recipe = self.part.teacher_steps, TEACHER_RECIPE
        uniform = ("algo=duo_base", *TEACHER_OPTIMIZER)
        return {"teacher": (recipe, steps), "uniform teacher": (uniform, steps)}

    def has(self, what: str) -> bool:
        return (self.folder / f"{what}.pt").exists()

    def weights(self, what: str) -> train.Weights:
        """What `prepare` trained, from its file."""
        return torch.load(self.folder / f"{what}.pt", weights_only=True)

    def model(self, weights: train.Weights, algo: str = "algo=mdlm"):
        return train.opened([algo, *self.part.model], self.tokenizer, weights)

    def candidate(self, label: str, denoise) -> Candidate:
        """A denoiser as the evaluation sees it."""
        vocab = self.mask_index + 1
        return Candidate(
            label, denoise, self.alpha, self.mask_index, vocab, self.length, self.tokenizer
        )

    def masked(self, label: str, weights: train.Weights) -> Candidate:
        return self.candidate(label, embedded.denoiser(self.model(weights)))

    @property
    def mask_index(self) -> int:
        return self.tokenizer.vocab_size


class ExactLanguage(Setting):
    """Sequences of a language whose likelihood and denoiser are computed."""

    name = "language"

    @cached_property
    def language(self) -> Language:
        return Language(**self.part.language)

    @property
    def evaluator(self) -> Language:
        return self.language

    @cached_property
    def tokenizer(self):
        # Letters, only to have something to print.
        letters = (string.ascii_lowercase + string.digits)[: self.language.vocab]
        words = {letter: i for i, letter in enumerate(letters)}
        model = tokenizers.models.WordLevel(words, unk_token=letters[0])
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(model), clean_up_tokenization_spaces=False
        )

    @cached_property
    def rows(self):
        x = self.language.draw(
            self.part.corpus_rows, self.length, counter_generator("training rows")
        )
        lengths = np.full(len(x), self.length)
        return dataloader.Rows(x.to(torch.int32).numpy(), lengths)

    @cached_property
    def held_out(self):
        rows = max(2 * self.part.samples, self.part.bound_rows)
        return self.language.draw(rows, self.length, counter_generator("held-out rows"))

    def oracle(self) -> Oracle:
        return Oracle(self.language)

    def facts(self) -> dict[str, float]:
        """The language's own perplexity, and knowing nothing of it."""
        return {
            "perplexity": self.evaluator.nll(self.held_out).perplexity,
            "uniform": float(self.language.vocab),
        }


class Text(Setting):
    """English of the standard library, judged by a left-to-right model of our own."""

    name = "text"
    preparations = ("judge", "teacher")

    @cached_property
    def tokenizer(self):
        return dataloader.get_tokenizer(self.config)

    @cached_property
    def rows(self):
        return dataloader.get_dataset(self.config, self.tokenizer, "train")

    @cached_property
    def held_out(self):
        rows = dataloader.get_dataset(self.config, self.tokenizer, "valid")
        most = max(2 * self.part.samples, self.part.bound_rows)
        found = [rows[i]["input_ids"] for i in range(min(most, len(rows)))]
        return torch.stack(found)

    def recipes(self):
        judge = ("algo=ar", "+recipe=laptop_judge")
        return {"judge": (judge, self.part.judge_steps), **super().recipes()}

    @cached_property
    def evaluator(self) -> CallableEvaluator:
        model = self.model(self.weights("judge"), "algo=ar")
        return CallableEvaluator(embedded.judge(model), "AR model of the minihost")

    def oracle(self):
        raise NotImplementedError("no exact denoiser of text is known")

    def facts(self) -> dict[str, float]:
        return {
            "perplexity": self.evaluator.nll(self.held_out).perplexity,
            "uniform": float(self.tokenizer.vocab_size),
        }


SETTINGS = {"language": ExactLanguage, "text": Text}


@lru_cache(maxsize=4)
def opened(name: str, size: str, folder: Path) -> Setting:
    """The setting of that name, once a process."""
    return SETTINGS[name](SIZES[size][name], folder)
