"""The whole benchmark at a minuscule size, and what it refuses."""

import json
import shutil
import subprocess
import sys

import pytest
import quality
import torch
from bench import jobs, methods, page, train
from bench.jobs import Job
from bench.setting import opened
from bench.sizes import SIZES
from bench.summary import FRONTIER

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import sweep
from mdlm_mcd.evaluation.rows import existing
from mdlm_mcd.models import vocabulary

TINY = SIZES["tiny"]["language"]
LANGUAGE = ["--size", "tiny", "--part", "language", "--jobs", "1", "--seeds", "1"]
FEW = ["--method", "sdtt", "--method", "mcd, kl_bwd", "--method", "teacher, T 1 to 0.8"]
METHODS = {method.name: method for method in methods.METHODS}


def run(*args):
    lines = []
    return quality.run(quality.parsed([*map(str, args)]), lines.append), lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of a few methods on the language."""
    folder, _ = run(*LANGUAGE, *FEW, "--out", tmp_path_factory.mktemp("out"))
    return folder


def test_every_planned_point_is_measured_and_reported(finished, monkeypatch):
    for name in ("teacher", "oracle", "teacher, T 0.8", "teacher, T 1 to 0.8", "mcd", "sdtt"):
        job = Job("language", name, METHODS[name])
        rows = existing(job.path(finished, ".jsonl"))
        assert len(rows) == sum(map(len, job.points(TINY).values()))
        assert all(m["value"] == m["value"] for row in rows for m in row["metrics"].values())
    summed = [json.loads(x) for x in (finished / "results.jsonl").read_text("utf-8").splitlines()]
    assert {("teacher", None), ("mcd", None), ("mcd", 1)} <= {
        (r["method"], r["round"]) for r in summed
    }
    text = (finished / "results.md").read_text("utf-8")
    assert "| sdtt | `algo=sdtt`" in text and (finished / "results.svg").exists()
    # One that stops is reported, and what stands is not done again.
    assert "- Not measured: mcd, kl_bwd: algo.loss=kl_bwd is" in text
    monkeypatch.setattr(jobs, "measure", None)
    monkeypatch.setattr(train, "fit", None)
    run(*LANGUAGE, *FEW, "--out", finished.parent)
    assert (finished / "results.md").read_text("utf-8") == text


def test_a_method_of_which_one_seed_stopped_is_not_measured(finished, tmp_path):
    """A mean over the seeds that went well would be no figure of it."""
    folder = shutil.copytree(finished, tmp_path / finished.name)
    end = {"method": "sdtt", "why": "It diverged."}
    (folder / "language/sdtt-seed-2.end").write_text(json.dumps(end), "utf-8")
    quality.write(folder, "tiny", None, print)
    rows = [json.loads(x) for x in (folder / "results.jsonl").read_text("utf-8").splitlines()]
    text = (folder / "results.md").read_text("utf-8")
    assert "- Not measured: sdtt: It diverged." in text
    assert {"mcd", "teacher"} <= {row["method"] for row in rows} and "| sdtt |" not in text


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
    """Worker processes, the shipped teacher, its judge and the tables beside them."""
    command = [sys.executable, quality.__file__, "--size", "tiny", "--part", "text"]
    done = subprocess.run(
        [*command, "--method", "mcd", "--out", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert {"teacher", "mcd"} <= {row["method"] for row in rows}
    (tables,) = (row for row in rows if row["method"] == "tables")
    text, beaten = (folder / "results.md").read_text("utf-8"), tables["teacher"] < tables["bigram"]
    assert page.taught(tables) in text and (page.NO_VERDICT in text) != beaten


def test_the_language_with_topics_has_a_section_of_its_own(tmp_path):
    topics = ["--size", "tiny", "--part", "topics", "--method", "sdtt", "--jobs", "1"]
    folder, lines = run(*topics, "--out", tmp_path)
    rows = [json.loads(x) for x in (folder / "results.jsonl").read_text("utf-8").splitlines()]
    measured = {(row["part"], row["method"]) for row in rows}
    quick = (name for name in FRONTIER if METHODS[name].quick)
    assert measured == {("topics", name) for name in ("oracle", "mcd", "sdtt", *quick)}
    text = (folder / "results.md").read_text("utf-8")
    assert f"## {page.TITLES['topics']}\n" in text and page.TITLES["topics"] in lines[-2]
    assert page.TITLES["topics"] in (folder / "results.svg").read_text("utf-8")


def test_the_version_follows_all_sources_but_those_that_read_figures(tmp_path):
    versions = []
    for name in ("mdlm_mcd/new.py", "configs/algo/x.yaml", "mdlm_mcd/assets/judge/x.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
        versions.append(quality.code_version(tmp_path))
    (tmp_path / "benchmarks/bench").mkdir(parents=True)
    (tmp_path / "benchmarks/bench/page.py").write_text("1")
    assert len(set(versions)) == 3 and quality.code_version(tmp_path) == versions[-1]
    assert all(list(quality.ROOT.glob(pattern)) for pattern in quality.SOURCES)


@pytest.mark.parametrize(
    "args, words",
    [
        (["--method", "magic"], "--method magic is unknown"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(args, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        run(*args, "--size", "tiny", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_full_plan_has_the_seeds_laws_and_preparations():
    todo = jobs.plan(methods.METHODS, SIZES["full"], "full-from-scratch")
    kinds = [job.method is None for job in todo]
    assert kinds == sorted(kinds, reverse=True)  # preparations come first
    prepared = {(job.part, job.what) for job in todo if job.method is None}
    assert ("text", "judge") in prepared
    for method in methods.METHODS:
        for part in method.parts:
            mine = [j for j in todo if j.part == part and j.method == method]
            assert len(mine) >= 3 and (part, method.teacher) in prepared
            laws = {p.u_law for p in mine[0].points(SIZES["full"][part])[None]}
            assert laws == {"iid"} | ({"lattice"} if method.teacher != methods.UNIFORM else set())


@pytest.mark.parametrize("algo", ["mcd", "sdtt", "subset", "cd4lm", "dcd", "mmd", "mdlm"])
def test_overrides_compose_to_the_same_budget(algo):
    mine = [m for m in methods.METHODS if m.overrides[:1] == (f"algo={algo}",)]
    keys = [o for m in mine for o in m.overrides[1:]]  # Hydra refuses one that is unknown
    config = train.compose(*keys, *jobs.overrides(mine[0], TINY, 7))  # whose own count
    assert config.seed == 7 and config.trainer.max_steps == TINY.total_steps
    if "rounds" in config.algo:
        assert config.algo.rounds * config.algo.steps_per_round == TINY.total_steps


def test_a_method_goes_on_from_the_student_before_it(finished, monkeypatch):
    setting, method = opened("language", "tiny", finished / "language"), METHODS["mcd, then mmd"]
    fit, runs = train.fit, []

    def watched(overrides, *data, start, **how):
        runs.append((overrides[0], start, fit(overrides, *data, start=start, **how)))
        return runs[-1][2]

    monkeypatch.setattr(train, "fit", watched)
    found = jobs.students(Job("language", method.name, method), setting, finished / "chain.pt")
    (first, start, students), (second, middle, last) = runs
    assert (first, second, list(last)) == ("algo=mcd", "algo=mmd", [1])
    assert all(torch.equal(start[k], w) for k, w in setting.weights("teacher").items())
    assert middle is students[2] and all(torch.equal(found[1][k], w) for k, w in last[1].items())


def test_the_exact_denoiser_teaches_every_round(finished):
    """And no guard objects."""
    setting, method = opened("language", "tiny", finished / "language"), "mcd, oracle as teacher"
    found = jobs.students(Job("language", method, METHODS[method]), setting, finished / "new.pt")
    start = setting.weights("teacher")
    assert sorted(found) == [1, 2]
    assert any(not torch.equal(w, start[n]) for n, w in found[2].items())


@pytest.mark.parametrize("part", ["language", "topics"])
def test_models_of_a_language_have_its_tokens(part, tmp_path):
    setting = opened(part, "tiny", tmp_path)
    tokens = setting.language.vocab
    assert vocabulary.uniform(setting.tokenizer) == tokens
    assert vocabulary.masked(setting.tokenizer) == (tokens + 1, tokens)
