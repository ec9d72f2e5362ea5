"""Correct Lightning's counts of batches in a checkpoint.

Hosts rewrite them by a formula of Lightning 2.0's time, which rests on every epoch
being a whole number of optimizer steps. And Lightning also writes checkpoints between
the micro-batches of a step (after a validation, or after the first batch of a resumed
run), whose gradients no file holds.
"""

from __future__ import annotations

import copy
import logging

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

say = rank_zero_only(logging.getLogger(__name__).info)

LIGHTNING = tuple(int(part) for part in L.__version__.split(".")[:2])
BATCHES, LOGGED = "epoch_loop.batch_progress", "epoch_loop.state_dict"


def counts(checkpoint) -> dict:
    """Return what Lightning itself has written, before a host rewrites it."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return copy.deepcopy({k: loop[k] for k in (BATCHES, LOGGED) if k in loop})


def mend(checkpoint, counted: dict, accumulate: int) -> int:
    """Put `counted` back, as it was after the last optimizer step.

    Return the number of batches since then, which a resumed run takes again. Nothing
    else in a checkpoint changes within a step.
    """
    if BATCHES not in counted:
        return 0
    loop = checkpoint["loops"]["fit_loop"]
    loop.update(copy.deepcopy(counted))
    batches, steps = loop[BATCHES], checkpoint["global_step"]
    epochs = loop["epoch_progress"]
    left = not batches["is_last_batch"] and batches["current"]["processed"]
    if left and epochs["current"]["processed"] == epochs["current"]["ready"]:
        # A run that stops in the middle of an epoch counts it as one that has ended.
        for count in (epochs["total"], epochs["current"]):
            count["processed"] -= 1
            count["completed"] = count["processed"]
    # An epoch's last batch ends a step, however many batches that has.
    ahead = 0 if batches["is_last_batch"] else batches["current"]["processed"]
    ahead %= accumulate
    if ahead:
        # As if written at the end of the batch that ended the step, not yet counted.
        counts_it = int(batches["current"]["processed"] == ahead)
        for count in (batches["total"], batches["current"]):
            done = count["processed"] - ahead
            count.update(dict.fromkeys(count, done), completed=done - 1 + counts_it)
        loop[LOGGED]["_batches_that_stepped"] = steps - 1 + counts_it
    if LIGHTNING < (2, 5):
        _mend_old(loop, steps)
    return ahead


def resplit(checkpoint, was: dict[str, int] | None, now: dict[str, int]) -> None:
    """Let a run whose global batch was split otherwise go on; rows and noise know no split.

    was, now: see `resume.split`.
    """
    if was is None or was == now:
        return
    # Lightning counts micro-batches, and tells by them where a step ends.
    batches = checkpoint["loops"]["fit_loop"][BATCHES]
    for counts in (batches["total"], batches["current"]):
        uncounted = counts["processed"] - counts["completed"]  # as it is written
        for name, count in counts.items():
            counts[name] = count * now["micro_batches"] // was["micro_batches"]
        counts["completed"] = counts["processed"] - uncounted


def _mend_old(loop: dict, steps: int) -> None:
    """Add what Lightning before 2.5 leaves out.

    It counts a batch after its checkpoint. Resumed, it would take that index again;
    after the last batch of an epoch it would make another epoch of one batch; and it
    would go on with a validation where the one before had ended.
    """
    batches, epochs = loop[BATCHES], loop["epoch_progress"]
    loop[LOGGED]["_batches_that_stepped"] = steps
    for count in (batches["total"], batches["current"]):
        count["completed"] = count["processed"]
    if validated := loop.get("epoch_loop.val_loop.batch_progress"):
        validated["current"] = dict.fromkeys(validated["current"], 0)
    if batches["is_last_batch"]:
        batches["is_last_batch"] = False
        batches["current"] = dict.fromkeys(batches["current"], 0)
        # Unless written after the epoch's end, when it is counted already.
        if epochs["current"]["processed"] < epochs["current"]["ready"]:
            for count in (epochs["total"], epochs["current"]):
                count["processed"] += 1
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
