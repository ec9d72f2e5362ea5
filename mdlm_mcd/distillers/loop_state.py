"""Correct Lightning's counts of batches in a checkpoint.

Hosts rewrite them by a formula of Lightning 2.0's time, which rests on every epoch
being a whole number of optimizer steps. And Lightning also writes checkpoints between
the micro-batches of a step (after a validation, or after the first batch of a resumed
run), whose gradients no file holds.
"""

from __future__ import annotations

import copy

import lightning as L

LIGHTNING = tuple(int(part) for part in L.__version__.split(".")[:2])
BATCHES, LOGGED = "epoch_loop.batch_progress", "epoch_loop.state_dict"


def counts(checkpoint) -> dict:
    """Return what Lightning itself has written, before a host rewrites it."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return copy.deepcopy({k: loop[k] for k in (BATCHES, LOGGED) if k in loop})


def mend(checkpoint, counted: dict, accumulate: int) -> None:
    """Put `counted` back, as it was after the last optimizer step.

    A resumed run takes the batches since then again. Nothing else in a checkpoint
    changes within a step.
    """
    if BATCHES not in counted:
        return
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
        for loader in loop["state_dict"].get("combined_loader", []):
            if "batch" in loader:  # its place is in the checkpoint
                loader["batch"] -= ahead
    if LIGHTNING < (2, 5):
        _mend_old(loop, steps)


def resplit(checkpoint, was: int, now: int) -> None:
    """Let a run with other micro-batches a step go on; rows and noise know no split.

    Lightning counts micro-batches, and tells by them where a step ends.
    """
    batches = checkpoint["loops"]["fit_loop"][BATCHES]
    for counts in (batches["total"], batches["current"]):
        uncounted = counts["processed"] - counts["completed"]  # as it is written
        for name, count in counts.items():
            counts[name] = count * now // was
        counts["completed"] = counts["processed"] - uncounted


def _mend_old(loop: dict, steps: int) -> None:
    """Add what Lightning before 2.5 leaves out, which counts a batch after its checkpoint.

    Resumed, it would take that index again; after the last batch of an epoch it would make
    another epoch of one batch, and go on with a validation where the one before had ended.
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
