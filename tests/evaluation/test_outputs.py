"""No command writes over a file that it did not write: refused first, untouched."""

import json
import sys

import pytest
from synthetic import row, write

from mdlm_mcd.commands import demo, figures, main
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import report
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


def untouched(call, *paths):
    """What call() says, where it ends in one sentence and leaves the paths as is."""
    before = {p: p.read_bytes() for p in paths[0].parent.rglob("*") if p.is_file()}
    said = call()
    assert before == {p: p.read_bytes() for p in paths[0].parent.rglob("*") if p.is_file()}
    assert "\n" not in said.strip() and "Traceback" not in said
    return said


def command(capsys, *argv):
    def call():
        assert main.main([str(x) for x in argv]) == 1
        return capsys.readouterr().err.splitlines()[-1]  # after a sweep's progress

    return call


def samples(compose, out):
    def call():
        with pytest.raises(ConfigError) as error:
            minihost.run(
                compose(
                    "mode=sample_eval",
                    "eval.checkpoint_path=none.ckpt",
                    f"eval.generated_samples_path={out}",
                )
            )
        return str(error.value)

    return call


@pytest.mark.parametrize("held", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("what", ["sweep", "calibrate", "report", "samples"])
def test_a_file_of_others(what, held, tmp_path, capsys, compose):
    """Refused before anything is opened: there is no checkpoint, and no other file."""
    out = tmp_path / "mine"
    out.write_bytes(held)
    calls = {
        "sweep": command(capsys, "sweep", "none.ckpt", "--out", out),
        "calibrate": command(capsys, "sweep", "none.ckpt", "--calibrate", "--out", out),
        "report": command(capsys, "report", "none.jsonl", "--out", out),
        "samples": samples(compose, out),
    }
    said = untouched(calls[what], out)
    assert str(out) in said and "it is left as it is; name another" in said


@pytest.mark.parametrize("name", figures.NAMES)
def test_a_picture_of_others(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"\x89PNG mine <svg>")
    call = command(capsys, "figures", "--out", tmp_path, "--model", "none.ckpt")
    assert f"--out {tmp_path / name} was not written" in untouched(call, tmp_path / name)


@pytest.mark.parametrize("name", ["thesis.tex", "results.json", ".hidden", "x/y"])
def test_a_folder_of_others(name, tmp_path, capsys):
    out = tmp_path / "mine"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    said = untouched(command(capsys, "demo", "--out", out, "--quick"), out)
    assert f"--out {out} was not written" in said and "no demo.json" in said


def test_the_calibration_has_a_file_too(tmp_path, capsys):
    out = tmp_path / "r.calibration.jsonl"
    out.write_text("mine")
    call = command(capsys, "sweep", "none.ckpt", "--calibrate", "--out", tmp_path / "r.jsonl")
    assert f"--out {out} was not written" in untouched(call, out)


@pytest.mark.parametrize("what", ["sweep", "report", "samples"])
def test_a_folder_where_a_file_is_wanted(what, tmp_path, capsys, compose):
    calls = {
        "sweep": command(capsys, "sweep", "none.ckpt", "--out", tmp_path),
        "report": command(capsys, "report", "none.jsonl", "--out", tmp_path),
        "samples": samples(compose, tmp_path),
    }
    assert "is a folder: name a file" in untouched(calls[what], tmp_path)


@pytest.mark.parametrize("what", ["sweep", "report", "samples"])
@pytest.mark.skipif(sys.platform == "win32", reason="no devices here")
def test_a_device(what, capsys, compose):
    calls = {
        "sweep": command(capsys, "sweep", "none.ckpt", "--out", "/dev/null"),
        "report": command(capsys, "report", "none.jsonl", "--out", "/dev/null"),
        "samples": samples(compose, "/dev/null"),
    }
    assert "/dev/null cannot be read (it is no file)" in calls[what]()


def test_results_are_no_place_for_their_report(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", [row()])
    link = tmp_path / "link.html"
    link.symlink_to(path)
    for out in (path, link):
        said = untouched(command(capsys, "report", path, "--out", out), path)
        assert "no page of `mdlm-mcd report`" in said


def test_what_is_ours_is_written_anew(tmp_path):
    """A report, also of before pages said in their head what made them."""
    path = write(tmp_path / "r.jsonl", [row()])
    out = tmp_path / "page.html"
    out.touch()  # an empty file is nobody's work
    for title in ("one", "two"):
        report.write([path], out, title=title)
        assert f"<title>{title}</title>" in out.read_text("utf-8")
    mark = '<meta name="generator" content="mdlm-mcd report">\n'
    old = out.read_text("utf-8")
    assert mark in old
    out.write_text(old.replace(mark, ""), "utf-8")
    report.write([path], out, title="three")
    assert "<title>three</title>" in out.read_text("utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "r.jsonl"]


def test_samples_of_ours_are_drawn_anew(compose, tmp_path):
    out = tmp_path / "samples.json"
    out.write_text('{"entropy": 1.0, "generated_seqs": ["a"]}')
    with pytest.raises(ConfigError, match="none.ckpt is no file"):
        minihost.run(
            compose(
                "mode=sample_eval",
                "eval.checkpoint_path=none.ckpt",
                f"eval.generated_samples_path={out}",
            )
        )


def test_a_demo_and_pictures_of_ours_are_gone_on_with(tmp_path):
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a demo with another"):
        demo.run(tmp_path)
    for name in figures.NAMES:
        (tmp_path / name).write_bytes(b"<svg>mdlm-mcd figures")
    figures.check_out(tmp_path)
