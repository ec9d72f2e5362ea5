"""`mdlm-mcd figures`: its flags and its refusals."""

import sys
import xml.etree.ElementTree as ET

import pytest
import torch

from mdlm_mcd.commands import figures, main
from mdlm_mcd.commands.figures import data
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.sampling import Latent


@pytest.fixture(scope="module")
def trained(module_compose, tmp_path_factory):
    """A masked model and one that is none, of the embedded host, two steps old."""
    folder, found = tmp_path_factory.mktemp("trained"), {}
    for algo in ("mdlm", "ar"):
        where = f"checkpointing.save_dir={folder / algo}"
        size = ("model.hidden_size=16", "model.n_blocks=1", "model.length=32")
        minihost.run(module_compose("trainer.max_steps=2", *size, f"algo={algo}", where))
        found[algo] = folder / algo / "checkpoints" / "last.ckpt"
    return found


def test_the_trajectory_of_a_trained_checkpoint(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    named = f"mine={trained['mdlm']}"
    flags = ["--model", named, "--weights", "raw", "--tokenizer", "bpe", "--seed", "3"]
    assert main.main(["figures", "--out", str(tmp_path), *flags]) == 0
    assert "index.html" in capsys.readouterr().out
    model = candidates.open_model(candidates.Source.parse(named, which="raw", tokenizer="bpe"))
    shown = data.trajectories(model, figures.LENGTH, seed=3)
    u = Latent(3).u(1, figures.LENGTH)[0]
    words = []
    for run in shown.runs:
        assert torch.equal(run.opened, (u * run.steps).floor().long() + 1)
        assert not (run.tokens == model.mask_index).any()
        words += run.words
    moving = (tmp_path / "trajectory_animated.svg").read_text("utf-8")
    drawn = [
        element.text or ""
        for element in ET.fromstring(moving).iter()
        if (element.get("class") or "").startswith("word")
    ]
    assert drawn == words and len(words) == 3 * figures.LENGTH
    page = (tmp_path / "index.html").read_text("utf-8")
    for text in (
        "24 tokens, where it was trained on 32, by mine (last.ckpt",
        model.provenance["sha256"][:12],
        "Latent(3)",
    ):
        assert text in page
    assert "eight sentences" not in page and "misprinted" not in page
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_checkpoint_of_no_masked_model_is_refused(trained, tmp_path, capsys):
    said = ["figures", "--out", str(tmp_path / "out"), "--model", str(trained["ar"])]
    assert main.main(said) == 1
    complaint = capsys.readouterr().err
    assert "a masked model under SUBS" in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags,sentence",
    [
        (["--out", "{0}/file"], "is a file: name a folder."),
        (["--out", "{0}/file/below"], "cannot be made (Not a directory)"),
        (["--out", "{0}/out", "--model", "{0}/none.ckpt"], "none.ckpt"),
        (["--out", ""], "--out is empty: name a folder."),
        (["--out", "{0}/out", "--weights", "raw"], "--weights is a checkpoint's: name"),
        (["--out", "{0}/out", "--tokenizer", "x"], "--tokenizer is a checkpoint's"),
    ],
)
def test_refusals_are_one_sentence(flags, sentence, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main.main(["figures", *(flag.format(tmp_path) for flag in flags)]) == 1
    complaint = capsys.readouterr().err
    assert sentence in complaint and "Traceback" not in complaint
    assert complaint.startswith("mdlm-mcd: ") and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fails_is_one_sentence(tmp_path, monkeypatch, drawn):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "pictures", lambda *_: list(drawn.values()))
    monkeypatch.setattr(figures, "_save", full)
    with pytest.raises(figures.ConfigError, match="cannot be written .No space left"):
        figures.write(tmp_path)


def test_without_matplotlib_it_says_so_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert main.main(["figures", "--out", str(out), "--model", "no.ckpt"]) == 1
    assert "pip install 'mdlm-mcd[demo]'" in capsys.readouterr().err
    assert not out.exists()
