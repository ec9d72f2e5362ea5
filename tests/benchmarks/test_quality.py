"""The whole benchmark at a minuscule size, and what it refuses."""

import json
import subprocess
import sys

import pytest
import torch
from bench import jobs, main, methods, results, schedule, store, train
from bench.jobs import Job, Point
from bench.setting import opened
from bench.sizes import SIZES

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import results as report_rows

LANGUAGE = ["--size", "tiny", "--part", "language", "--jobs", "1"]
FEW = ["--method", "sdtt", "--method", "mcd, kl_bwd", "--method", "mcd"]


def run(*args):
    said = []
    folder = main.run(main.parser().parse_args([*map(str, args)]), said.append)
    return folder, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a few methods on the language."""
    out = tmp_path_factory.mktemp("out")
    folder, said = run(*LANGUAGE, *FEW, "--seeds", 1, "--out", out)
    return out, folder, said


def rows_of(folder):
    return store.Store(folder).rows()


def test_every_planned_point_is_measured(finished):
    _, folder, _ = finished
    rows = rows_of(folder)
    part = SIZES["tiny"]["language"]
    found = {(r["method"], r["seed"]) for r in rows if "metrics" in r}
    for name in ("teacher", "oracle", "teacher, T 0.8", "mcd", "sdtt"):
        method = next(m for m in methods.METHODS if m.name == name)
        assert (name, 1) in found
        job = Job("language", name, method, 1)
        assert store.Store(folder).done(job) == set(job.points(part))
    for row in rows:
        if "metrics" in row:
            assert all(v == v for v in row["metrics"].values() if v is not None)


def test_a_run_that_stops_is_reported(finished):
    _, folder, _ = finished
    why = next(r["stopped"] for r in rows_of(folder) if r["method"] == "mcd, kl_bwd")
    assert "kl_bwd" in why
    assert "- mcd, kl_bwd: " + why in (folder / "results.md").read_text("utf-8")


def test_the_report_reads_its_rows(finished):
    _, folder, _ = finished
    found = report_rows.read([folder / "language.jsonl"])
    assert {"teacher", "mcd", "mcd, round 1"} <= {p.model for p in found.points}
    assert (folder / "language.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_finished_run_measures_nothing_again(finished, monkeypatch):
    out, folder, _ = finished
    before = (folder / "rows.jsonl").read_bytes()
    page = (folder / "results.md").read_text("utf-8")

    def never(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(jobs, "measure", never)
    monkeypatch.setattr(train, "fit", never)
    run(*LANGUAGE, *FEW, "--seeds", 1, "--out", out)
    assert (folder / "rows.jsonl").read_bytes() == before
    lines = [x for x in page.split("\n") if " minutes." not in x]
    assert all(x in (folder / "results.md").read_text("utf-8") for x in lines)


def test_a_killed_run_goes_on_without_training_again(finished, tmp_path, monkeypatch):
    _, folder, _ = finished
    job = next(j for j in jobs.plan(methods.METHODS, ["language"], "tiny") if j.what == "mcd")
    held = tmp_path / "language"
    held.mkdir()
    (held / "teacher.pt").write_bytes((folder / "language/teacher.pt").read_bytes())
    points = job.points(SIZES["tiny"]["language"])

    measure, seen = jobs.measure, []

    def killed(job, point, *rest):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(point)
        return measure(job, point, *rest)

    monkeypatch.setattr(jobs, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        jobs.run(job, "tiny", tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"part": "language", "met')  # as a power cut leaves it
    monkeypatch.setattr(jobs, "measure", measure)
    monkeypatch.setattr(train, "fit", None)  # its students are on the disk
    jobs.run(job, "tiny", tmp_path)
    rows = rows_of(tmp_path)
    assert [Point(r["steps"], r["law"], r["round"]) for r in rows] == points
    # Interrupted or not, the same figures.
    whole = [r for r in rows_of(folder) if (r["method"], r["seed"]) == ("mcd", 1)]
    assert [r["metrics"] for r in rows] == [r["metrics"] for r in whole]


def test_draws_are_paired_across_methods(finished):
    _, folder, _ = finished
    setting = opened("language", "tiny", folder / "language")
    model = setting.masked("teacher", setting.weights("teacher"))
    one, other = (jobs.draw(model, Point(4), 1.0, 8, 1) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, jobs.draw(model, Point(4), 1.0, 8, 2))


@pytest.mark.slow
def test_the_command_itself_on_text(tmp_path):
    """Worker processes, and samples judged by a model that is trained first."""
    command = [
        sys.executable,
        store.ROOT / "benchmarks" / "quality.py",
        "--size",
        "tiny",
        "--part",
        "text",
        "--method",
        "mcd",
        "--jobs",
        "2",
        "--out",
        tmp_path,
        "--docs",
        tmp_path / "docs.md",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "with 2 processes" in done.stdout
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert {r["method"] for r in rows_of(folder)} >= {"teacher", "mcd"}
    assert (folder / "text.html").exists()
    assert (tmp_path / "docs.md").read_text() == (folder / "results.md").read_text()


# Where figures are kept -----------------------------------------------------------


def test_figures_of_other_code_are_kept_apart(finished, monkeypatch):
    out, folder, _ = finished
    monkeypatch.setattr(store, "code_version", lambda: "other")
    other, said = store.claim(out, "other", "tiny")
    assert other != folder and not rows_of(other)
    assert folder.name in said and other.name in said
    with pytest.raises(ConfigError, match="name the folder above it"):
        store.claim(folder, "other", "tiny")
    file = out / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        store.claim(file, "other", "tiny")


def test_the_version_follows_what_decides_the_figures(tmp_path):
    for name in ("mdlm_mcd/losses.py", "benchmarks/bench/tables.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    first = store.code_version(tmp_path)
    (tmp_path / "benchmarks/bench/tables.py").write_text("2")
    assert store.code_version(tmp_path) == first
    (tmp_path / "mdlm_mcd/losses.py").write_text("2")
    assert store.code_version(tmp_path) != first
    for pattern in store.DECIDES:
        assert list(store.ROOT.glob(pattern)), pattern


@pytest.mark.parametrize(
    "args, said",
    [
        (["--teacher", "oracle"], "no exact denoiser"),
        (["--teacher", "oracle", "--part", "text"], "no exact denoiser"),
        (["--teacher", "wise"], "--teacher wise is unknown"),
        (["--method", "magic"], "--method magic is unknown"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--part", "music"], "--part music is unknown"),
        (["--table-only"], "--table-only finds no figures"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(args, said, tmp_path):
    answer = main.main([*args, "--size", "tiny", "--out", str(tmp_path / "new")])
    assert said in answer and "\n" not in answer
    assert not (tmp_path / "new").exists()


# The plan -------------------------------------------------------------------------


def minutes(size):
    chosen = methods.named(quick=size != "full")
    todo = jobs.plan(chosen, list(SIZES[size]), size)
    return sum(job.cost(SIZES[size][job.part]) for job in todo) / 60 / 2


def test_the_plan_is_within_its_time():
    assert minutes("full") <= 50 and minutes("quick") <= 8


def test_the_full_plan_has_the_seeds_and_laws():
    todo = jobs.plan(methods.METHODS, ["language", "text"], "full")
    for method in methods.METHODS:
        for part in method.parts:
            mine = [j for j in todo if j.part == part and j.method == method]
            assert len(mine) >= 3
            laws = {p.law for p in mine[0].points(SIZES["full"][part])}
            assert "iid" in laws
            assert ("lattice" in laws) == (method.teacher != methods.UNIFORM)


def test_overrides_compose_for_every_method():
    part = SIZES["tiny"]["language"]
    for method in methods.METHODS:
        if not method.trained or method.teacher == methods.UNIFORM:
            continue
        config = train.compose(*jobs.overrides(method, part, 7))
        assert config.seed == 7 and config.trainer.max_steps == part.total_steps
        algo = config.algo
        if "rounds" in algo:
            assert algo.rounds * algo.steps_per_round == part.total_steps


def test_preparations_come_first_and_jobs_wait_for_them():
    todo = jobs.plan(methods.METHODS, ["language", "text"], "full")
    kinds = [job.method is None for job in todo]
    assert kinds == sorted(kinds, reverse=True)
    prepared = {(job.part, job.what) for job in todo if job.method is None}
    for job in todo:
        assert {(job.part, what) for what in job.needs} <= prepared


def test_an_error_in_a_job_is_not_swallowed(tmp_path, monkeypatch):
    job = Job("language", "teacher")

    def broken(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr(jobs, "run", broken)
    with pytest.raises(RuntimeError, match="broken"):
        schedule.run([job], "tiny", tmp_path, 1)


def test_rows_for_the_report_are_json(finished):
    _, folder, _ = finished
    for line in (folder / "language.jsonl").read_text("utf-8").splitlines():
        assert json.loads(line)["num_samples"] == SIZES["tiny"]["language"].samples
    assert results.TITLES.keys() == SIZES["tiny"].keys()


@pytest.mark.parametrize("name", ["mcd, oracle as teacher", "mcd, teacher fixed"])
def test_teachers_that_stay(finished, name):
    """The exact denoiser, or the first teacher, in every round: no guard objects."""
    _, folder, _ = finished
    setting = opened("language", "tiny", folder / "language")
    method = next(m for m in methods.METHODS if m.name == name)
    given = jobs.overrides(method, setting.part, 1)
    oracle = setting.oracle() if method.oracle else None
    start = setting.weights("teacher")
    students = train.fit(
        given, setting.tokenizer, setting.rows, start=start, oracle=oracle, every=2
    )
    assert sorted(students) == [1, 2]
    assert all(w.isfinite().all() for w in students[2].values())
    moved = [not torch.equal(w, start[n]) for n, w in students[2].items()]
    assert any(moved)
