"""Find the tokens that a batch gives as context: never masked, never in the loss.

A batch marks them by `context_mask`, (batch, length), nonzero where a token is given.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

UNLABELLED = -100  # what transformers' collators put where a token has no loss


def marked(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a batch with `context_mask` in place of labels that say the same.

    Those are `labels` of (batch, length) with -100 at given tokens, and at padding, which is no
    context. What `context_mask` marks is given, too. Labels of classes, (batch,), stay.
    """
    labels, ids = batch.get("labels"), batch["input_ids"]
    if labels is None or labels.shape != ids.shape:
        return batch
    given = (labels == UNLABELLED) & batch.get("attention_mask", torch.ones_like(ids)).bool()
    known = of(batch)
    given = given if known is None else given | known
    later = ids[:, 1:][given[:, 1:]]
    if len(later) and bool((later == later[0]).all()):
        _warn_of_one_token(int(later[0]))
    return {k: v for k, v in batch.items() if k != "labels"} | {"context_mask": given}


@functools.cache
def _warn_of_one_token(token: int) -> None:
    """Warn, once, of what transformers' collator writes where the padding is EOS."""
    log.warning(
        "labels are -100 at the token %d alone, which is so taken for a given context: never "
        "masked, never learnt. Where that is EOS, because the tokenizer pads with it, give it a "
        "padding token of its own, or batches a context_mask.",
        token,
    )


def of(batch: Mapping[str, Any]) -> Tensor | None:
    """Return the (batch, length) bool mask of given tokens, None where none is marked."""
    given = batch.get("context_mask")
    return None if given is None else given.bool()
