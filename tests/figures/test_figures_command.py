"""`mdlm-mcd figures`: its flags and its refusals."""

import sys

import pytest
import torch

from mdlm_mcd import cli, figures
from mdlm_mcd.figures import language
from mdlm_mcd.hosts import models


def test_a_checkpoint_is_drawn_where_one_is_named(tmp_path, monkeypatch, capsys):
    asked = {}

    def open_model(source):
        asked.update(path=source.path, which=source.which, tokenizer=source.tokenizer)
        model = language.language()
        return type(model)(
            **{**vars(model), "label": "mine", "length": 40,
               "provenance": {"checkpoint": "a.ckpt", "sha256": "f" * 64}}
        )  # fmt: skip

    monkeypatch.setattr(models, "open_model", open_model)
    monkeypatch.setattr(
        language, "IDS", torch.cat([language.IDS, language.IDS], 1)[:, : figures.LENGTH]
    )
    monkeypatch.setattr(figures, "_save", lambda picture, out: [])  # the words suffice
    said = ["figures", "--out", str(tmp_path), "--model", "a.ckpt", "--seed", "3",
            "--weights", "raw", "--tokenizer", "gpt2"]  # fmt: skip
    assert cli.main(said) == 0
    assert asked == {"path": "a.ckpt", "which": "raw", "tokenizer": "gpt2"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "24 tokens, where it was trained on 40, by mine (a.ckpt" in page
    assert "Latent(3)" in page and "ffffffffffff)" in page
    assert "eight sentences" not in page and "misprinted" not in page
    assert "index.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,said",
    [
        (["--out", "{0}/file"], "is a file: name a folder."),
        (["--out", "{0}/file/below"], "cannot be made (Not a directory)"),
        (["--out", "{0}/out", "--model", "{0}/none.ckpt"], "none.ckpt"),
    ],
)
def test_refusals_are_one_sentence(words, said, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert cli.main(["figures", *(w.format(tmp_path) for w in words)]) == 1
    complaint = capsys.readouterr().err
    assert said in complaint and "Traceback" not in complaint
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
    assert cli.main(["figures", "--out", str(out), "--model", "no.ckpt"]) == 1
    assert "pip install 'mdlm-mcd[demo]'" in capsys.readouterr().err
    assert not out.exists()
