"""Count a model's vocabulary, place its mask, and check the ids it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ConfigError


def masked(tokenizer: Any, size: int | None = None) -> tuple[int, int]:
    """Return (vocabulary size, mask id) of a masked model for a tokenizer.

    All of the tokenizer's tokens count, added ones too, and a mask follows them where it
    has none. size: of a model's embedding; where the public hosts' rule, which counts no added
    tokens, gives it, that is used. Raises ConfigError for a mask beyond the model's tokens.
    """
    own = getattr(tokenizer, "mask_token", None) is not None
    # Ids may have gaps: then there are fewer tokens than the highest id says.
    count = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
    if size == tokenizer.vocab_size + (not own):
        count = tokenizer.vocab_size
    found = (count, tokenizer.mask_token_id) if own else (count + 1, count)
    check_mask(tokenizer.name_or_path, tokenizer, found[1], found[0])
    return found


def uniform(tokenizer: Any) -> int:
    """Return the vocabulary size of a uniform-state model, as the public hosts count it.

    They add a `[PAD]` where the tokenizer has no padding, and count it.
    """
    return len(tokenizer) + (tokenizer.pad_token is None)


def check_tokens(tokenizer: Any) -> None:
    """Raise ValueError for a tokenizer of special tokens alone.

    `transformers` makes one for a folder without a tokenizer's files.
    """
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
        raise ValueError("there are no tokens but special ones")


def check_mask(name: str, tokenizer: Any, index: int | None, size: int) -> None:
    """Raise ConfigError unless `index` is one of a model's `size` tokens; name: the tokenizer's."""
    if not (isinstance(index, int) and 0 <= index < size):
        raise ConfigError(
            f"data.tokenizer_name_or_path={name} has mask token {tokenizer.mask_token!r} with id "
            f"{index}, which is not one of the model's {size}: use a tokenizer with its mask in "
            "its vocabulary, or without one, to which the host adds its own."
        )


def check_ids(
    ids: Tensor,
    size: int,
    mask: int | None,
    what: str,
    tokenizer: Any,
    valid: Tensor | None = None,
) -> None:
    """Raise ConfigError for an id outside of `size` tokens, or the mask's (None: there is none).

    valid: nonzero where an id counts, of the same shape. what: where the ids come from.
    """
    bad = (ids < 0) | (ids >= size)
    if mask is not None:
        bad |= ids == mask
    if valid is not None:
        bad &= valid.bool()
    if not bad.any():
        return
    found = int(ids[bad][0])
    why = "the model's mask" if found == mask else f"not one of the model's {size}"
    try:
        text = repr(tokenizer.convert_ids_to_tokens(found))
    except Exception:  # hosts have tokenizers of their own
        text = "unknown text"
    raise ConfigError(
        f"{what} holds token {found} ({text}), which is {why}: take its text out, or choose "
        "another data.tokenizer_name_or_path."
    )


def context_of(model: Any) -> int | None:
    """Return the most tokens a causal language model reads at once; None: any number."""
    return getattr(model.config, "max_position_embeddings", None)


def check_evaluator(
    what: str, model: Any, ids: Tensor | Sequence[Tensor], windows: bool = False
) -> None:
    """Raise ConfigError where a causal language model cannot read rows of ids.

    what: the model, for the message. windows: rows are cut into parts of its context.
    """
    width = max(map(len, ids), default=0)
    context = context_of(model)
    if context and width > context and not windows:
        raise ConfigError(
            f"{what} has a context of {context} tokens and a sample {width}: choose an "
            "evaluator with a longer context."
        )
    size = model.get_input_embeddings().num_embeddings
    highest = max((int(row.max()) for row in ids if len(row)), default=0)
    if highest >= size:
        raise ConfigError(
            f"{what} has a vocabulary of {size} tokens and is given token {highest}: its "
            "tokenizer is another model's; name one of its own."
        )
