"""No command writes over a file that it did not write: refused first, untouched."""

import json

import pytest
from synthetic import row, write

from mdlm_mcd.commands import demo
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import report, rows
from mdlm_mcd.minihost import main as minihost

ROW = json.dumps(row())
FOREIGN = {
    "notes": b"first line\nsecond line\n",
    "another tool's JSON lines": b'{"text": "a"}\n{"text": "b"}\n',
    "JSON": b'{"schema": 1}',
    "bytes": b"\x00\xff\xfe\x01",
    "a page": b"<!doctype html>\n<html><title>mine</title></html>\n",
    "notes between rows": f"{ROW}\n# try again\n{ROW}\n".encode(),
    "notes at the end": f"{ROW}\ntry again".encode(),
    "rows of another version": json.dumps(row(schema=2)).encode() + b"\n",
    "UTF-16": f"{ROW}\n".encode("utf-16"),
}


def sweep(out, compose):
    rows.resumed(out)


def page(out, compose):
    report.write(["none.jsonl"], out)


def samples(out, compose):
    how = ("eval.checkpoint_path=none.ckpt", f"eval.generated_samples_path={out}")
    minihost.run(compose("mode=sample_eval", *how))


EACH = [(sweep, kept) for kept in FOREIGN] + [(page, "notes"), (page, "JSON"), (samples, "notes")]


@pytest.mark.parametrize("write_to, kept", EACH)
def test_a_file_of_others(write_to, kept, tmp_path, compose):
    """Refused before anything is opened: there is no checkpoint, and no other file."""
    out, kept = tmp_path / "mine", FOREIGN[kept]
    out.write_bytes(kept)
    with pytest.raises(ConfigError, match="it is left as it is; name another"):
        write_to(out, compose)
    assert out.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("write_to", [sweep, page, samples])
def test_what_is_no_file(write_to, tmp_path, compose):
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        write_to(tmp_path, compose)


@pytest.mark.parametrize("name", ["results.json", ".hidden", "x/y"])
def test_a_folder_of_others(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="was not written .*no demo.json"):
        demo.run(tmp_path)


def test_what_is_ours_is_written_anew(tmp_path, compose, monkeypatch):
    monkeypatch.setattr(report.charts, "matplotlib", None)
    path, out = write(tmp_path / "r.jsonl", [row()]), tmp_path / "page.html"
    out.touch()  # an empty file is nobody's work
    for title in ("one", "two"):
        report.write([path], out, title=title)
        assert f"<title>{title}</title>" in out.read_text("utf-8")
    with pytest.raises(ConfigError, match="no page of `mdlm-mcd report`"):
        report.write([path], path)  # results are no place for their report
    drawn = tmp_path / "samples.json"
    drawn.write_text('{"entropy": 1.0, "generated_seqs": ["a"]}')
    with pytest.raises(ConfigError, match="none.ckpt is no file"):
        samples(drawn, compose)
