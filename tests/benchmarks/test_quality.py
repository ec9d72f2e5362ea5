"""The whole benchmark at a minuscule size, and what it refuses."""

import subprocess
import sys

import pytest
import torch
from bench import jobs, main, methods, schedule, train
from bench.jobs import Job
from bench.setting import opened
from bench.sizes import SIZES

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import results, sweep
from mdlm_mcd.evaluation.rows import existing

TINY = SIZES["tiny"]["language"]
LANGUAGE = ["--size", "tiny", "--part", "language", "--jobs", "1", "--seeds", "1"]
FEW = ["--method", "sdtt", "--method", "mcd, kl_bwd", "--method", "teacher, T 1 to 0.8"]
METHODS = {method.name: method for method in methods.METHODS}


def run(*args):
    lines = []
    return main.run(main.parser().parse_args([*map(str, args)]), lines.append), lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of a few methods on the language."""
    folder, _ = run(*LANGUAGE, *FEW, "--out", tmp_path_factory.mktemp("out"))
    return folder


def test_every_planned_point_is_measured_and_reported(finished):
    for name in ("teacher", "oracle", "teacher, T 0.8", "teacher, T 1 to 0.8", "mcd", "sdtt"):
        job = Job("language", name, METHODS[name])
        assert jobs.is_done(job, TINY, finished)
        for row in existing(job.path(finished, ".jsonl")):
            assert all(m["value"] == m["value"] for m in row["metrics"].values())
    found = results.read([finished / "language.jsonl"])
    assert {"teacher", "mcd", "mcd, round 1"} <= {p.model for p in found.points}
    assert (finished / "language.html").read_text("utf-8").startswith("<!doctype html>")
    assert "| sdtt | 1 | `algo=sdtt`" in (finished / "results.md").read_text("utf-8")


def test_a_method_that_stops_is_reported(finished):
    why = main.read(finished / "language").stopped["mcd, kl_bwd"]
    assert "kl_bwd" in why
    assert f"- mcd, kl_bwd: {why}" in (finished / "results.md").read_text("utf-8")


def test_a_finished_run_measures_nothing_again(finished, monkeypatch):
    def contents():
        return {p: p.read_bytes() for p in finished.rglob("*") if p.suffix in (".jsonl", ".md")}

    before = contents()
    monkeypatch.setattr(jobs, "measure", None)
    monkeypatch.setattr(train, "fit", None)
    run(*LANGUAGE, *FEW, "--out", finished.parent)
    assert contents() == before


def test_a_killed_job_goes_on_without_training_again(finished, tmp_path, monkeypatch):
    job = Job("language", "mcd", METHODS["mcd"])
    (tmp_path / "language").mkdir()
    teacher = (finished / "language/teacher.pt").read_bytes()
    (tmp_path / "language/teacher.pt").write_bytes(teacher)
    append, rows = sweep.append, job.path(tmp_path, ".jsonl")

    def killed(path, row):
        append(path, row)
        if len(existing(path)) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        jobs.run(job, "tiny", tmp_path)
    rows.write_bytes(rows.read_bytes() + b'{"schema": 1, "met')  # as a power cut leaves it
    monkeypatch.setattr(sweep, "append", append)
    monkeypatch.setattr(train, "fit", None)  # its students are on the disk
    jobs.run(job, "tiny", tmp_path)
    # Interrupted or not, the same figures.
    assert [row["metrics"] for row in existing(rows)] == [
        row["metrics"] for row in existing(job.path(finished, ".jsonl"))
    ]


@pytest.mark.slow
def test_the_command_itself_on_text(tmp_path):
    """Worker processes, and samples judged by a model that is trained first."""
    command = [sys.executable, main.ROOT / "benchmarks/quality.py", "--size", "tiny"]
    command += ["--part", "text", "--method", "mcd", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--docs", tmp_path / "docs.md"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert {m.name for m in main.read(folder / "text").methods} >= {"teacher", "mcd"}
    assert (folder / "text.html").exists()
    assert (tmp_path / "docs.md").read_text() == (folder / "results.md").read_text()


def test_figures_of_other_code_are_kept_apart(finished, monkeypatch):
    before = finished.stat().st_mtime
    monkeypatch.setattr(main, "code_version", lambda: "other")
    monkeypatch.setattr(schedule, "run", lambda *args: None)
    monkeypatch.setattr(main, "write", lambda *args: None)
    other, lines = run(*LANGUAGE, "--out", finished.parent)
    assert other.name == "other-tiny" and finished.stat().st_mtime == before
    assert any(finished.name in line and other.name in line for line in lines)
    other.rmdir()


def test_the_version_follows_all_sources_but_those_that_read_figures(tmp_path):
    for name in ("mdlm_mcd/new.py", "configs/algo/x.yaml", "benchmarks/bench/jobs.py"):
        first = main.code_version(tmp_path)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
        assert main.code_version(tmp_path) != first
    first = main.code_version(tmp_path)
    (tmp_path / "benchmarks/bench/page.py").write_text("1")
    assert main.code_version(tmp_path) == first
    assert all(list(main.ROOT.glob(pattern)) for pattern in main.SOURCES)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--method", "magic"], "--method magic is unknown"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--table-only"], "--table-only finds no figures"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(args, words, tmp_path):
    answer = main.main([*args, "--size", "tiny", "--out", str(tmp_path / "new")])
    assert words in answer and "\n" not in answer
    assert not (tmp_path / "new").exists()


def test_a_page_of_others_is_left_alone(tmp_path):
    page = tmp_path / "mine.md"
    page.write_text("mine")
    with pytest.raises(ConfigError, match="no page of this benchmark"):
        run("--size", "tiny", "--out", tmp_path / "new", "--docs", page)
    assert page.read_text() == "mine" and not (tmp_path / "new").exists()


# The plan -------------------------------------------------------------------------


@pytest.mark.parametrize("size, most", [("full", 50), ("quick", 8)])
def test_the_plan_is_within_its_time(size, most):
    todo = jobs.plan(methods.named(quick=size != "full"), list(SIZES[size]), size)
    assert sum(job.cost(SIZES[size][job.part]) for job in todo) / 60 / 2 <= most


def test_the_full_plan_has_the_seeds_laws_and_preparations():
    todo = jobs.plan(methods.METHODS, ["language", "text"], "full")
    kinds = [job.method is None for job in todo]
    assert kinds == sorted(kinds, reverse=True)  # preparations come first
    prepared = {(job.part, job.what) for job in todo if job.method is None}
    for method in methods.METHODS:
        for part in method.parts:
            mine = [j for j in todo if j.part == part and j.method == method]
            assert len(mine) >= 3
            assert {(part, what) for what in mine[0].needs} <= prepared
            laws = {p.u_law for p in mine[0].points(SIZES["full"][part])[None]}
            assert laws == {"iid"} | ({"lattice"} if method.teacher != methods.UNIFORM else set())


def test_overrides_compose_for_every_method():
    for method in methods.METHODS:
        if not method.overrides or method.teacher == methods.UNIFORM:
            continue
        config = train.compose(*jobs.overrides(method, TINY, 7))
        assert config.seed == 7 and config.trainer.max_steps == TINY.total_steps
        if "rounds" in config.algo:
            assert config.algo.rounds * config.algo.steps_per_round == TINY.total_steps


def test_an_error_in_a_job_is_not_swallowed(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr(jobs, "run", broken)
    with pytest.raises(RuntimeError, match="broken"):
        schedule.run([Job("language", "teacher")], "tiny", tmp_path, 1)


@pytest.mark.parametrize("name", ["mcd, oracle as teacher", "mcd, teacher fixed"])
def test_teachers_that_stay(finished, name):
    """The exact denoiser, or the first teacher, in every round: no guard objects."""
    setting = opened("language", "tiny", finished / "language")
    start = setting.weights("teacher")
    found = train.fit(
        jobs.overrides(METHODS[name], setting.part, 1),
        setting.tokenizer,
        setting.rows,
        start=start,
        oracle=setting.oracle() if METHODS[name].oracle else None,
        every=2,
    )
    assert sorted(found) == [1, 2]
    assert all(w.isfinite().all() for w in found[2].values())
    assert any(not torch.equal(w, start[n]) for n, w in found[2].items())


def test_a_uniform_model_is_drawn_from_by_its_host(finished):
    """As many samples as asked for, the same for the same seed; no bound."""
    setting = opened("language", "tiny", finished / "language")
    model = setting.uniform("uniform", setting.prepare(methods.UNIFORM))
    points = jobs.Setting(steps=2), jobs.Setting(steps=2)
    one, other = (
        sweep.draw(model, point, jobs.Plan((point,), 70, seed=3), jobs.noise)[0] for point in points
    )
    assert one.shape == (70, 16) and torch.equal(one, other) and model.denoise is None
