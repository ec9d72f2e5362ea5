"""Lightning's counts of batches in a checkpoint, as it will want to find them.

Hosts rewrite them by a formula of Lightning 2.0's time, which rests on every epoch
being a whole number of optimizer steps.
"""

from __future__ import annotations

import copy
import logging

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)

LIGHTNING = tuple(int(part) for part in L.__version__.split(".")[:2])
BATCHES, LOGGED = "epoch_loop.batch_progress", "epoch_loop.state_dict"


def counts(checkpoint) -> dict:
    """What Lightning itself has written, to be kept while a host rewrites it."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return copy.deepcopy({k: loop[k] for k in (BATCHES, LOGGED) if k in loop})


def mend(checkpoint, counted: dict) -> None:
    """Put `counted` back, and add what Lightning before 2.5 leaves out.

    Those count a batch after its checkpoint. Resumed, they would take its index again;
    after the last batch of an epoch they would make another epoch of one batch.
    """
    if BATCHES not in counted:
        return
    loop = checkpoint["loops"]["fit_loop"]
    loop.update(copy.deepcopy(counted))
    if LIGHTNING >= (2, 5):
        return
    batches, epochs = loop[BATCHES], loop["epoch_progress"]
    loop[LOGGED]["_batches_that_stepped"] = checkpoint["global_step"]
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"]
    if batches["is_last_batch"]:
        batches["is_last_batch"] = False
        batches["current"] = dict.fromkeys(batches["current"], 0)
        # Unless written after the epoch's end, when it is counted already.
        if epochs["current"]["processed"] < epochs["current"]["ready"]:
            for count in (epochs["total"], epochs["current"]):
                count["processed"] += 1
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]


def warn_within_a_step(checkpoint, accumulate: int, path) -> None:
    """Say that gradients are missing, which no file holds."""
    batches = checkpoint.get("loops", {}).get("fit_loop", {}).get(BATCHES)
    if batches is None or batches["is_last_batch"]:
        return
    if micro := batches["current"]["processed"] % accumulate:
        _warn(
            f"checkpointing.resume_ckpt_path={path} was written after {micro} of "
            f"{accumulate} micro-batches of a step, whose gradients are not in it: to "
            "go on exactly, resume from last.ckpt."
        )


_warn = rank_zero_only(log.warning)
