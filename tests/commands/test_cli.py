"""The command: its words, its refusals, and the demo from end to end."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import synthetic
import torch

from mdlm_mcd.commands import demo, demo_tables, main, stages
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import results

PRODUCTS = "report.html results.jsonl table.md perplexity_vs_steps.png samples.txt results.json"


@pytest.mark.parametrize("words, most", [([], 24), *(([name], 40) for name in main.COMMANDS)])
def test_help_fits_a_screen_and_has_an_example_that_is_read(words, most, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main.main([*words, "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert 8 < len(lines) <= most and all(len(line) <= 80 for line in lines)
    example, _, command = lines[-1].partition(" mdlm-mcd ")
    given = command.split()
    assert example == "Example:" and given[: len(words)] == words
    main.parser(given).parse_args(given)
    first = {line.split()[0] for line in lines if line.startswith("    ")}
    assert words or first >= set(main.COMMANDS)


def test_run_hands_what_follows_to_hydra(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    monkeypatch.setattr(subprocess, "call", lambda command: started.append(command))
    main.main(["run", "-m", "algo=mcd", "--help", "--"])
    assert started[0][1:] == ["-m", "mdlm_mcd.hosts.launch", "-m", "algo=mcd", "--help", "--"]


@pytest.mark.parametrize("given", ["--u-law=lattice:x", "--u-law=lattice:1/0", "--steps=8,x"])
def test_arguments_of_the_sweep(given, capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["sweep", "x.ckpt", given])
    assert end.value.code == 2 and given.partition("=")[2] in capsys.readouterr().err


def command(*args, **kwargs):
    kwargs |= dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    words = [sys.executable, "-m", "mdlm_mcd.commands.main", *map(str, args)]
    return subprocess.Popen(words, **kwargs)


@pytest.mark.slow
def test_demo_goes_on_after_an_interruption(tmp_path):
    """Stopped while the teacher trains; the same command ends with every product."""
    out = tmp_path / "demo"
    # A shell that starts the tests in its background has them ignore SIGINT, and with
    # them whatever they start.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = command("demo", "--out", out, "--from-scratch", "--quick", preexec_fn=heeds)
    log, deadline = out / "log.txt", time.time() + 120
    while not (log.exists() and "algo=mdlm" in log.read_text()):
        assert first.poll() is None and time.time() < deadline, first.stderr.read()
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, printed = first.communicate(timeout=60)
    assert first.returncode == 130 and "same command goes on" in printed
    assert not (out / "results.json").exists()

    second = command("demo", "--out", out, "--from-scratch", "--quick")
    printed, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors + log.read_text()[-2000:]
    assert log.read_text().count("algo=ar") == 1  # the judge stood already
    assert all((out / name).stat().st_size > 0 for name in PRODUCTS.split())
    made = (out / "results.json").read_text()
    rows = json.loads(made)["rows"]
    curves = [("teacher", 1.0), ("teacher", 0.8), ("MCD round 1", 1.0), ("MCD round 2", 1.0)]
    points = {(*curve, steps) for curve in curves for steps in (4, 8)} | {("teacher", 1.0, 16)}
    points -= {("MCD round 1", 1.0, 4)}  # but for the last round, few steps
    assert {(row["model"], row["temperature"], row["steps"]) for row in rows} == points
    for row in rows:
        found = {k: row["metrics"][k]["value"] for k in ("nelbo", "perplexity", "entropy")}
        assert found["nelbo"] > 0 and found["perplexity"] > 1 and 0 < found["entropy"] < 4
        assert row["evaluations"] <= row["steps"] and row["dtype"] == "float64"
    # Perplexity never stands without entropy, in the terminal and in the file.
    for text in (printed, (out / "table.md").read_text()):
        assert "MCD round 2" in text and "entropy" in text and "float64" in text

    # A third run finds all of it done; with another seed the folder is refused.
    assert command("demo", "--out", out, "--from-scratch", "--quick").wait(120) == 0
    assert (out / "results.json").read_text() == made and log.read_text().count("algo=mcd") == 1
    other = command("demo", "--out", out, "--from-scratch", "--quick", "--seed", 2)
    _, printed = other.communicate(timeout=60)
    assert other.returncode == 1 and "another seed" in printed and "Traceback" not in printed


@pytest.mark.slow
def test_demo_from_what_is_shipped(tmp_path):
    """Nothing but the student is trained, and samples come first."""
    done = command("demo", "--out", tmp_path / "demo", "--quick")
    printed, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    log = (tmp_path / "demo" / "log.txt").read_text()
    assert log.count("$ python -m") == 1 and "+recipe=mcd_text" in log
    assert "The teacher in 8 steps" in printed and "MCD round 2, 8 steps" in printed
    first = json.loads((tmp_path / "demo" / "results.json").read_text())["rows"][0]
    assert first["evaluator"] == "mdlm-mcd/judge" and first["metrics"]["nelbo"]["value"] < 5


def test_without_matplotlib_the_demo_says_so_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'mdlm-mcd\[demo\]'"):
        demo.run(tmp_path / "demo")
    assert not os.listdir(tmp_path)


# Stages -----------------------------------------------------------------------------------


def test_a_child_that_is_waited_for(tmp_path):
    """Its output in the log while it runs, its status, and its end with this process."""
    log, seen = tmp_path / "log.txt", []
    log.write_text("before\n")
    text = tmp_path / "clock.py"
    text.write_text("import time\nprint('step 1/2', flush=True)\ntime.sleep(1)\nexit(3)")
    ended = stages.run("clock", ["a=b"], log, folder=tmp_path, on_step=seen.append)
    assert (ended.status, ended.output) == (3, "step 1/2\n") and set(seen) == {1}
    assert log.read_text() == "before\n$ python -m clock a=b\nstep 1/2\n"

    def interrupted(step):
        raise KeyboardInterrupt

    text.write_text("import time\nprint('step 1/2', flush=True)\ntime.sleep(60)")
    begun = time.time()
    with pytest.raises(KeyboardInterrupt):
        stages.run("clock", [], log, folder=tmp_path, on_step=interrupted)
    assert time.time() - begun < 30


def test_a_training_goes_on_from_its_newest_checkpoint(tmp_path, monkeypatch):
    """Also from one that was written on a GPU; a stage that fails says where and why."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    calls = []
    folder, log = tmp_path / "a=b", tmp_path / "log.txt"

    def run(module, arguments, log, *, folder, on_step):
        calls.append(arguments)
        (tmp_path / "a=b/checkpoints").mkdir(parents=True, exist_ok=True)
        step = 4 * len(calls)
        weights = {"global_step": step, "weight": torch.zeros(2)}
        torch.save(weights, tmp_path / "a=b/checkpoints/last.ckpt")
        return stages.Ended(len(calls) % 2, f"a\nb\nc\nstep {step - 2}\nstep {step}\n\nstopped\n")

    train, last = functools.partial(stages.train, run=run), folder / "checkpoints/last.ckpt"
    with pytest.raises(stages.StageError) as error:
        train(folder, ["algo=mdlm"], 8, log)
    how, _, lines = str(error.value).partition(". Its last lines: ")
    assert how == f"a=b stopped at step 4 of 8 (exit status 1; log: {log})"
    assert lines == "b\nc\nstep 2\nstep 4\nstopped"
    assert [train(folder, ["algo=mdlm"], 8, log) for _ in range(2)] == [last, last]
    assert len(calls) == 2  # the third found all of it done
    assert calls[0][-1] == "checkpointing.resume_from_ckpt=false"
    assert calls[1][0] == f"hydra.run.dir='{folder}'"
    assert calls[1][-1] == f"checkpointing.resume_ckpt_path='{last}'"


@pytest.fixture
def made_up(tmp_path):
    """`made_up(*cells, **metrics)`: results of a teacher at two temperatures and a student.

    Cells are (perplexity, entropy) at 8 and 64 steps.
    """
    how = dict(outside_evaluator="Another", machine={"device": "cpu", "threads": 2})
    estimate = synthetic.estimate

    def build(*cells, **more):
        rows = []
        for model, temperature, nelbo, mine in (
            ("teacher", 1.0, 4.0, ((100.0, 3.5), (60.0, 3.4))),
            ("teacher", 0.8, 4.0, ((50.0, 3.1), (30.0, 3.0))),
            ("MCD round 1", 1.0, 4.2, cells),
        ):
            for steps, (perplexity, entropy) in zip((8, 64), mine, strict=True):
                metrics = {"nelbo": estimate(nelbo), "entropy": estimate(entropy, 0.003), **more}
                metrics["perplexity"] = estimate(perplexity, 0.04) | {"correlation": 0.9}
                rows.append(synthetic.row(model, steps, temperature, metrics=metrics, **how))
        return results.read([synthetic.write(tmp_path / "results.jsonl", rows)])

    return build


BETTER = (55.0, 3.3), (40.0, 3.2)


@pytest.mark.parametrize(
    "cells, words",
    [
        (BETTER, ["at or below the teacher at 64 (60.0)", "scores 70.7 ", "student wins by 29%"]),
        (((90.0, 3.3), (70.0, 3.2)), ["does not reach", "the tempered teacher wins by 21%"]),
        (((72.0, 3.3), (40.0, 3.2)), ["a tie within two standard errors (-2%)"]),
        (((40.0, 2.5), (30.0, 2.4)), ["not compared at equal entropy"]),
    ],
)
def test_the_reading_follows_from_the_figures(made_up, cells, words):
    printed = demo_tables.reading(made_up(*cells))
    assert all(word in printed for word in words), printed
    assert "from 4.000 (teacher) to 4.200" in printed and "Another" not in printed
    second = demo_tables.reading(made_up(*cells, outside_perplexity=synthetic.estimate(77.0)))
    assert "Another, which learned other text, gives the teacher 77 and MCD round 1 77" in second


def test_the_figure_the_table_and_the_samples(made_up, tmp_path):
    found = made_up(*BETTER)
    demo_tables.perplexity_vs_steps(found, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    table = demo_tables.markdown(found, "made up")
    assert demo_tables.side_by_side(found).row_count == 2
    assert table.count("\n| ") == 4 and "55.0 / 3.30" in table and "teacher, T = 0.8" in table
    assert "=== MCD round 1, 64 steps (perplexity 40.0" in demo_tables.samples(found)
