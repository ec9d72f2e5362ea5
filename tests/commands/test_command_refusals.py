"""What `mdlm-mcd`'s commands refuse: one sentence, status 1, before any work is lost."""

import contextlib
import os
import signal
from unittest import mock

import pytest
import torch

from mdlm_mcd.evaluation import candidates


def full_gpu(shell):
    full = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    with mock.patch("mdlm_mcd.evaluation.sweep.draw", side_effect=full):
        return shell.sweep()


def export(shell, checkpoint, *argv):
    return shell.command("export", checkpoint, shell.folder / "out", *argv)


def of_data(shell, checkpoint=None, **change):
    """A checkpoint whose config has another `data`."""
    return shell.changed(
        lambda c: c["hyper_parameters"]["config"]["data"].update(change), checkpoint
    )


def other_text(shell, checkpoint=None):
    """One whose text has changed, of which another `bpe` would be made."""
    lines = "\n".join(f"Some quite different sentence, number {i}." for i in range(400))
    return of_data(shell, checkpoint, files=[str(shell.write("other.txt", lines))])


def pipe(shell):
    """It never ends; this one would end the test by its timeout."""
    os.mkfifo(shell.folder / "pipe.jsonl")
    return shell.folder / "pipe.jsonl"


CASES = {
    # Sweeps.
    "corpus": (lambda s: s.sweep("--corpus", "nowhere.txt"), "nowhere.txt"),
    "full gpu": (full_gpu, "takes more memory than"),
    "two of a name": (lambda s: s.command("sweep", s.teacher, s.teacher), "Two checkpoints are"),
    "text": (
        lambda s: s.command("sweep", "--evaluator", s.judge, of_data(s, valid="x")),
        "give --corpus",
    ),
    "a tokenizer gone": (
        lambda s: s.command("sweep", of_data(s, tokenizer_name_or_path="/no/such")),
        "Or give --tokenizer",
    ),
    "masked evaluator": (
        lambda s: s.sweep("--evaluator", s.teacher),
        "a left-to-right model (ar) is needed",
    ),
    "other tokens": (
        lambda s: s.command("sweep", other_text(s), "--corpus", s.folder / "other.txt"),
        "the checkpoint learned the tokens of a tokenizer of SHA-256",
    ),
    "other tokens by name": (
        lambda s: export(s, other_text(s), "--tokenizer", "bpe"),
        "the checkpoint learned the tokens of a tokenizer of SHA-256",
    ),
    "other tokens of an evaluator": (
        lambda s: s.sweep("--evaluator", other_text(s, s.judge)),
        "learned the tokens of a tokenizer of SHA-256",
    ),
    "no evaluator": (lambda s: s.sweep("--evaluator", "none.ckpt"), "is no file"),
    "silent evaluator": (
        lambda s: s.sweep("--evaluator", s.changed(lambda c: c.pop("hyper_parameters"), s.judge)),
        "does not say its model_length",
    ),
    # Reports, demos and pictures.
    "a pipe": (lambda s: s.command("report", pipe(s)), "it is no file"),
    "demo in a file": (
        lambda s: s.command("demo", "--out", s.write("file")),
        "cannot be written (File exists",
    ),
    "seed": (
        lambda s: s.command("demo", "--out", s.folder / "d", "--seed", "-1"),
        "--seed=-1 must be a whole number",
    ),
    "another demo": (
        lambda s: s.command("demo", "--out", s.write("demo.json", "[1]").parent, "--quick"),
        "holds a demo with another recipe, seed",
    ),
    "pictures of no model": (
        lambda s: s.command("figures", "--out", s.folder / "d", "--model", "none.ckpt"),
        "none.ckpt",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_status_1(shell, name):
    call, words = CASES[name]
    status, printed = call(shell)
    assert status == 1 and words in printed and "Traceback" not in printed, printed[-2500:]
    assert not (shell.folder / "out").exists() and not (shell.folder / "d").exists()


def test_a_sweep_before_a_model_is_opened(shell, monkeypatch):
    monkeypatch.setattr(candidates, "open_model", lambda *args: pytest.fail("opened"))
    status, printed = shell.sweep("--device", "foo")
    assert status == 1 and "--device foo cannot be used" in printed


def test_the_tokenizer_of_the_embedded_host_by_name(shell):
    assert shell.sweep("--tokenizer", "bpe")[0] == 0


# A disk that fills up -----------------------------------------------------------------


@contextlib.contextmanager
def small_disk(size):
    """Limit the size of any file, as far as this system can."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


DISKS = {
    "a run of the host": (30_000, lambda s: s.host("trainer.max_steps=1"), None),
    "export": (30_000, lambda s: export(s, s.teacher), "out cannot be written ("),
    "sweep": (100, lambda s: s.sweep(), None),
    "demo": (10, lambda s: s.command("demo", "--out", s.folder / "d", "--quick"), None),
}


@pytest.mark.parametrize("what", DISKS)
def test_a_disk_that_takes_no_more(shell, what):
    size, call, words = DISKS[what]
    with small_disk(size):
        status, printed = call(shell)
    assert status == 1 and "Traceback" not in printed, printed
    assert (words or "The disk takes no more") in printed
