"""Judge samples by any causal LM of `transformers`, or a callable of one's own.

The public hosts' convention, which `CausalLM` follows: samples are decoded with their
own tokenizer (special tokens as text), encoded with the evaluator's and cut to the
samples' length; windows of the evaluator's context are scored on their own, so the
first token of each is context only; of the rest every token counts that is not EOS,
*also after an EOS*, and of the EOS tokens the first of a window. A perplexity is
exp(nats / tokens) over all samples. Encoded anew, samples differ in length and the
hosts pad with EOS up to the longest: the first pad then counts as its sample's EOS,
unless there was one. Two things differ: no partial batch is dropped, and padding is
always EOS on the right, whatever pad token or side the tokenizer has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, border
from ..models.vocabulary import check_evaluator, check_tokens, context_of
from .intervals import Scores, finite

NLL = Callable[[Tensor], Tensor]
"""A judge: tokens (batch, length) -> nats of tokens 1.., (batch, length - 1)."""


class Evaluator(Protocol):
    """What scores samples; `name` goes to the results, to tell evaluators apart."""

    name: str

    def nll(self, samples: Tensor) -> Scores:
        """(samples, length) ids -> nats and tokens counted, by sample."""


def counted(ids: Tensor, eos: int | None) -> Tensor:
    """Return which of tokens 1.. count, for a window of ids: (batch, length - 1) bool."""
    if eos is None:
        return torch.ones_like(ids[:, 1:], dtype=torch.bool)
    ends = ids == eos
    return (~ends | (ends.cumsum(-1) == 1))[:, 1:]


def _scores(name: str, nats: Tensor, tokens: Tensor) -> Scores:
    """Checked: finite, and not all EOS or empty."""
    if not tokens.sum() > 0:
        raise ConfigError(
            f"evaluator={name} finds no token to score in {len(tokens)} samples: they "
            "are empty or all EOS; look at the samples' text and at sampling.steps."
        )
    return Scores(finite(f"The score of evaluator={name}", nats), tokens)


def _check(samples: Tensor) -> Tensor:
    if samples.ndim != 2 or len(samples) < 1 or samples.shape[1] < 2:
        raise ConfigError(
            f"samples of shape {tuple(samples.shape)} leave nothing to score: give "
            "(samples, length) with at least one sample of two tokens."
        )
    return samples


class CallableEvaluator:
    """A callable as an Evaluator, for instance the embedded host's AR model.

    eos: apply the hosts' convention with this id; None counts every token but the
    first.
    """

    def __init__(self, judge: NLL, name: str, *, eos: int | None = None, batch_size: int = 64):
        self.judge, self.name = judge, name
        self.eos, self.batch_size = eos, batch_size

    @torch.no_grad()
    def nll(self, samples: Tensor) -> Scores:
        """Score (samples, length) ids; raise ConfigError for nothing to score, or NaN."""
        nats, tokens = [], []
        for part in _check(samples).split(self.batch_size):
            counts = counted(part, self.eos).cpu()
            scored = self.judge(part).cpu().double()
            nats.append(scored.where(counts, 0.0).sum(-1))
            tokens.append(counts.sum(-1).double())
        return _scores(self.name, torch.cat(nats), torch.cat(tokens))


class CausalLM:
    """A causal language model of `transformers` as an Evaluator.

    model, tokenizer: the evaluator's; `load` opens both by name.
    source: the samples' own tokenizer. retokenize: decode with it and encode with the
        evaluator's; False hands the ids over, which needs one vocabulary.
    context: tokens of a window; None demands that samples fit the evaluator's own
        context (1024 is the hosts' figure, in windows where samples are longer).
    max_length: tokens kept of a re-encoded sample; None keeps the samples' length, as
        the hosts do, or all of a text.
    replace: text exchanged before encoding, say {"<|endoftext|>": "</s>"} where an
        evaluator spells EOS differently: the hosts score such markup as text.
    count_pad: let the first pad count as EOS, as the hosts do; False makes a sample's
        score independent of the longest's length.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        name: str,
        source=None,
        retokenize: bool = True,
        context: int | None = None,
        max_length: int | None = None,
        replace: Mapping[str, str] | None = None,
        count_pad: bool = True,
        batch_size: int = 8,
    ):
        """Raise ConfigError for a context the model lacks or a missing tokenizer."""
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.source, self.retokenize = source, retokenize
        self.max_length, self.replace = max_length, dict(replace or {})
        self.count_pad, self.batch_size = count_pad, batch_size
        self.eos = tokenizer.eos_token_id
        own = context_of(model)
        if context is not None and (context < 2 or (own and context > own)):
            raise ConfigError(
                f"evaluator={name} has a context of {own} tokens: choose context="
                f"{context} between 2 and {own}."
            )
        self.context, self.windows = context or own, context is not None
        if source is None and not retokenize:
            raise ConfigError(
                f"evaluator={name} is not known to share the samples' vocabulary: "
                "give the samples' tokenizer as source, or leave retokenize on."
            )

    @classmethod
    def load(cls, name: str, *, device=None, dtype=None, **how) -> CausalLM:
        """Open a local folder or a name on the Hub, e.g. gpt2-large.

        dtype: of the weights; None leaves it to transformers (float32 for GPT-2).
        Raises ConfigError when model or tokenizer cannot be loaded.
        """
        import transformers

        weights = {} if dtype is None else {"torch_dtype": dtype}
        with border(
            f"evaluator={name} cannot be loaded",
            "give the folder or the Hub name of a causal language model with its tokenizer",
        ):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            check_tokens(tokenizer)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=False, **weights
            )
        if device is not None:
            model = model.to(device)
        return cls(model, tokenizer, name=name, **how)

    def reading(self, source) -> CausalLM:
        """Return this evaluator, its model shared, for samples of another tokenizer."""
        found = copy.copy(self)
        found.source = source
        return found

    # From samples to the evaluator's ids -------------------------------------------

    def _texts(self, samples: Tensor | Sequence[str]) -> list[str]:
        if isinstance(samples, Tensor):
            if self.source is None:
                raise ConfigError(
                    f"evaluator={self.name} is given ids and no tokenizer to decode "
                    "them with: give the samples' tokenizer as source."
                )
            samples = self.source.batch_decode(samples)
        texts = list(samples)
        for old, new in self.replace.items():
            texts = [text.replace(old, new) for text in texts]
        return texts

    def _encode(self, samples: Tensor | Sequence[str]) -> list[Tensor]:
        if not self.retokenize:
            self._check_vocabulary(samples)
            return list(samples.cpu())
        most = self.max_length
        if most is None and isinstance(samples, Tensor):
            most = samples.shape[1]
        cut = {} if most is None else {"truncation": True, "max_length": most}
        encoded = self.tokenizer(self._texts(samples), **cut)["input_ids"]
        return [torch.tensor(ids, dtype=torch.long) for ids in encoded]

    def _check_vocabulary(self, samples: Tensor) -> None:
        if not isinstance(samples, Tensor):
            raise ConfigError(
                f"evaluator={self.name} is given texts: leave retokenize on for them."
            )
        ids = samples.unique().tolist()
        spelt = (t.convert_ids_to_tokens(ids) for t in (self.source, self.tokenizer))
        for token, theirs, ours in zip(ids, *spelt, strict=True):
            if theirs != ours:
                raise ConfigError(
                    f"evaluator={self.name} reads token {token} as {ours!r} and the "
                    f"samples' tokenizer as {theirs!r}: set retokenize=True."
                )

    # Scores -------------------------------------------------------------------------

    @torch.no_grad()
    def nll(self, samples: Tensor | Sequence[str]) -> Scores:
        """(samples, length) ids, or texts -> nats and tokens counted, by sample.

        Raises ConfigError when samples do not fit the context or the vocabulary, when
        no sample has a token to score, or for NaN.
        """
        if isinstance(samples, Tensor):
            _check(samples)
        with border(f"evaluator={self.name} cannot encode the text", "choose another"):
            encoded = self._encode(samples)
        width = max(map(len, encoded), default=0)
        check_evaluator(f"evaluator={self.name}", self.model, encoded, self.windows)
        nats = torch.zeros(len(encoded), dtype=torch.float64)
        tokens = torch.zeros_like(nats)
        pad = self.eos if self.eos is not None else 0
        for part in torch.arange(len(encoded)).split(self.batch_size):
            ids = torch.full((len(part), width), pad)
            real = torch.zeros_like(ids, dtype=torch.bool)
            for row, i in enumerate(part.tolist()):
                ids[row, : len(encoded[i])] = encoded[i]
                real[row, : len(encoded[i])] = True
            for window, text in zip(
                *(x.split(self.context or width, -1) for x in (ids, real)), strict=True
            ):
                counts = counted(window, self.eos)
                if self.eos is None or not self.count_pad:
                    counts &= text[:, 1:]
                some = counts.any(-1)
                if not some.any():
                    continue
                scored = self._window(window[some], text[some])
                nats[part[some]] += scored.where(counts[some], 0.0).sum(-1)
                tokens[part[some]] += counts[some].sum(-1)
        return _scores(self.name, nats, tokens)

    def _window(self, ids: Tensor, text: Tensor) -> Tensor:
        """Return nats of tokens 1.. of one window: (batch, length - 1) float64."""
        ids = ids.to(self.model.device)
        mask = text.to(ids.device).long()
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # By sample: a second (batch, length, vocab) tensor in float32 is not made.
        rows = [
            F.cross_entropy(row[:-1].float(), x[1:], reduction="none")
            for row, x in zip(logits, ids, strict=True)
        ]
        return torch.stack(rows).double().cpu()
