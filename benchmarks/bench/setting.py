"""The settings: what is learned, what judges samples, and models as candidates."""

from __future__ import annotations

import string
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.checkpoints.weights import read_weights
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.evaluation.candidates import Candidate
from mdlm_mcd.evaluation.evaluators import CallableEvaluator, CausalLM, outside
from mdlm_mcd.hosts import duo
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as entry
from mdlm_mcd.models.noise import NOISES

from . import tables, train
from .language import Language, Oracle, Topics
from .methods import ORACLE, UNIFORM, Method
from .sizes import BATCH, SIZES, Part

LEARNED_ROWS = 512  # held-out, on which the teacher is measured beside tables
TEACHER_RECIPE = ("algo=mdlm", "+recipe=laptop_teacher")
UNIFORM_RECIPE = (
    "algo=duo_base",
    "optim.lr=2e-3",
    "optim.beta2=0.99",
    "training.ema=0.995",
    "lr_scheduler._target_=transformers.get_cosine_schedule_with_warmup",
    "lr_scheduler.num_warmup_steps=50",
    "+lr_scheduler.num_training_steps=${trainer.max_steps}",
)


class Setting:
    """A part of the benchmark at one size, its files in `folder`.

    Subclasses have `tokenizer`, `rows` (training data), `evaluator` and `held_out`
    (rows, length), and say what is trained before everything else (`preparations`).
    """

    preparations: tuple[str, ...] = ("teacher",)

    def __init__(self, part: Part, folder: Path):
        self.part, self.folder = part, folder
        self.text_rows = max(2 * part.samples, part.bound_rows)

    @cached_property
    def config(self):
        return train.compose("algo=mdlm", *self.part.model)

    @property
    def length(self) -> int:
        return self.config.model.length

    @property
    def mask_index(self) -> int:
        return self.tokenizer.vocab_size

    def prepare(self, what: str) -> train.Weights:
        """Train a teacher (or the judge) by its recipe."""
        recipe, steps = {
            "judge": (("algo=ar", "+recipe=laptop_judge"), self.part.judge_steps),
            "teacher": (TEACHER_RECIPE, self.part.teacher_steps),
            UNIFORM: (UNIFORM_RECIPE, self.part.teacher_steps),
        }[what]
        given = [*recipe, *self.part.model, f"trainer.max_steps={steps}", "seed=1"]
        return train.fit(given, self.tokenizer, self.rows)[1]

    def weights(self, what: str) -> train.Weights:
        """Return what `prepare` trained, from its file."""
        return torch.load(self.folder / f"{what}.pt", weights_only=True)

    def model(self, weights: train.Weights, algo: str = "algo=mdlm"):
        """Return the host's own model in eval mode with these weights, for sampling."""
        config = train.compose(algo, *self.part.model)
        model = entry.model_class(config)(config, self.tokenizer)
        train.load(model, weights)
        return model.eval().requires_grad_(False)

    def candidate(self, label: str, method: Method, weights: train.Weights | None) -> Candidate:
        """Return a method's model as the evaluation sees it; weights: None of the oracle's."""
        denoise = generate = None
        if method.name == ORACLE:
            denoise = self.oracle().denoise
        elif method.teacher == UNIFORM:
            model = self.model(weights, "algo=duo_base")

            def generate(count, steps, generator):
                """Draw by the host's own ancestral sampler."""
                torch.manual_seed(generator.initial_seed())
                batches = range(0, count, BATCH)
                parts = [model.generate_samples(BATCH, num_steps=steps) for _ in batches]
                return torch.cat(parts)[:count]
        else:
            denoise = duo.denoiser(self.model(weights))
        noise = self.config.noise
        return Candidate(
            label,
            denoise,
            lambda t: NOISES[noise.type](noise.eps)(t)[1],
            self.mask_index,
            self.mask_index + 1,
            self.length,
            self.tokenizer,
            provenance={"sha256": identity.sha256(weights) if weights else "exact"},
            generate=generate,
        )

    def outside(self, model: Candidate, point) -> None:
        """Return a second evaluator of samples drawn at a point; none where one is exact."""

    def learned(self) -> dict:
        """Return nats per held-out token of tables of counts and of what was trained."""
        return {}


class ExactLanguage(Setting):
    """Sequences of a language whose likelihood and denoiser are computed."""

    kind = Language

    @cached_property
    def language(self) -> Language:
        return self.kind(**self.part.language)

    @property
    def evaluator(self) -> Language:
        return self.language

    @cached_property
    def tokenizer(self):
        # Letters, only to have something to print.
        letters = string.ascii_lowercase + string.digits + string.ascii_uppercase
        letters = (letters + string.punctuation)[: self.language.vocab]
        words = {letter: i for i, letter in enumerate(letters)}
        model = tokenizers.models.WordLevel(words, unk_token=letters[0])
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(model),
            pad_token=letters[0],  # else uniform-state models have one token more
            clean_up_tokenization_spaces=False,
        )

    @cached_property
    def rows(self):
        generator = counter_generator("training rows")
        x = self.language.draw(self.part.corpus_rows, self.length, generator)
        return dataloader.Rows(x.to(torch.int32).numpy(), np.full(len(x), self.length))

    @cached_property
    def held_out(self):
        return self.language.draw(self.text_rows, self.length, counter_generator("held-out rows"))

    def oracle(self) -> Oracle:
        return Oracle(self.language)


class TopicLanguage(ExactLanguage):
    kind = Topics


class Text(Setting):
    """English that comes with the package, as do its teacher and a left-to-right judge."""

    @property
    def preparations(self) -> tuple[str, ...]:
        return ("judge", "teacher") if self.part.teacher_steps else ()

    def weights(self, what: str) -> train.Weights:
        if self.preparations:
            return super().weights(what)
        tensors = read_weights(f"mdlm-mcd/{what}").state_dict
        return {name: tensor.float() for name, tensor in tensors.items()}

    @cached_property
    def tokenizer(self):
        return dataloader.get_tokenizer(self.config)

    @cached_property
    def rows(self):
        return dataloader.get_dataset(self.config, self.tokenizer, "train")

    @cached_property
    def held_out(self):
        rows = dataloader.get_dataset(self.config, self.tokenizer, "valid")
        found = [rows[i]["input_ids"] for i in range(min(self.text_rows, len(rows)))]
        return torch.stack(found)

    def learned(self) -> dict:
        valid = dataloader.get_dataset(self.config, self.tokenizer, "valid")
        kept = tables.held_out(valid, LEARNED_ROWS)
        found = {"rows": len(kept)}
        found |= tables.tables(self.rows.tokens.long(), kept, self.mask_index + 1)
        for name, algo in (("teacher", "algo=mdlm"), ("judge", "algo=ar")):
            found[name], _ = tables.nats(self.model(self.weights(name), algo), kept)
        return found

    @cached_property
    def evaluator(self) -> CallableEvaluator:
        model = self.model(self.weights("judge"), "algo=ar")
        nll = lambda tokens: model.nll(tokens[:, :-1], None, tokens[:, 1:])  # noqa: E731
        return CallableEvaluator(nll, "AR model of the minihost")

    @cached_property
    def _outside(self) -> CausalLM | None:
        return outside()

    def outside(self, model: Candidate, point) -> CausalLM | None:
        """Return an evaluator that nobody trained here, at one point: it takes its time."""
        if self._outside is None or (point.steps, point.u_law) != (self.part.few[-1], "iid"):
            return None
        return self._outside.reading(model.tokenizer)


SETTINGS = {"language": ExactLanguage, "topics": TopicLanguage, "text": Text}


@lru_cache(maxsize=4)
def opened(name: str, size: str, folder: Path) -> Setting:
    """Return the setting of that name, once a process."""
    return SETTINGS[name](SIZES[size][name], folder)
