"""Each table's whole chain, tiny: distil, sweep, report; and going on after a stop."""

import contextlib
import io
import json
import re
from types import SimpleNamespace

import pytest
from inside import Inside

METHODS = {
    "table1": "mcd,sdtt,dcd,cd4lm",
    "table2": "mcd,mcd-kl_fwd,mcd-kl_bwd",
    "table3": "mcd-large,sdtt-large",
    "figure3": "mcd",
}
# What is trained where the tables before have left their trainings in the same folder.
TRAINED = {
    "table1": "mdlm duo_base mcd sdtt dcd cd4lm ar",
    "table2": "mcd mcd",
    "table3": "mdlm mcd sdtt",
    "figure3": "",
}


@pytest.fixture(scope="module")
def run(paper, tmp_path_factory):
    """`run(table)`: status, stages and words of its smoke run, all in one folder."""
    out = tmp_path_factory.mktemp("paper")

    def once(name: str) -> SimpleNamespace:
        inside, words = Inside(), io.StringIO()
        flags = ["--smoke", "--out", str(out), "--methods", METHODS[name]]
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            status = paper.command.main(name, flags, start=inside)
        return SimpleNamespace(status=status, stages=inside.stages, said=words.getvalue(), out=out)

    return once


@pytest.fixture(scope="module")
def ran(run):
    return {name: run(name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_a_tables_chain(paper, ran, name):
    done, folder = ran[name], ran[name].out / name
    assert done.status == 0, done.said + (done.out / "log.txt").read_text("utf-8")
    trained = [x.removeprefix("algo=") for x in done.stages if x.startswith("algo=")]
    assert sorted(trained) == sorted(TRAINED[name].split())
    assert [x for x in done.stages if "=" not in x] == ["sweep", "report"]

    table = paper.chain.smaller(paper.experiments.table(name).chosen(METHODS[name]))
    rows = [json.loads(line) for line in (folder / "results.jsonl").open()]
    wanted = {
        run.key(k)
        for run in table.trained
        if not run.diverges and not run.method.uniform
        for k in ((1,) if run.algo == "cd4lm" else table.rounds)
    }
    assert {r["model"] for r in rows} == wanted | {"teacher"}
    assert {r["steps"] for r in rows} == set(table.steps)
    masked = {run.algo for run in table.trained if not run.method.uniform}
    assert {r["algo"] for r in rows if r["round"]} == masked
    page = (folder / "report.html").read_text("utf-8")
    assert "smoke run" in page and all(label in page for label in wanted)
    text = (folder / "table.md").read_text("utf-8").strip()
    assert done.said.strip().endswith(text)
    assert "its figures mean nothing" in text and "has not reproduced" in text


def test_uniform_state_models_are_drawn_by_their_host(ran):
    done = ran["table1"]
    assert done.stages.count("mode=sample_eval") == 3 * 2  # teacher, rounds; steps
    text = (done.out / "table1" / "table.md").read_text("utf-8")
    row = re.search(r"\| Duo round 2 \| - / (\d\.\d\d) \[-\] \|", text)
    assert row and 0 < float(row[1]) < 3


def test_a_loss_that_diverges_is_a_result(ran):
    folder = ran["table2"].out
    assert "algo.loss=kl_bwd" in (folder / "runs/mcd-kl_bwd/diverged.txt").read_text()
    text = (folder / "table2" / "table.md").read_text("utf-8")
    assert "| MCD kl_bwd round 1 | FAILED [-] | FAILED [-] |" in text


def test_what_stands_is_not_done_again(ran, run):
    again = run("table2")
    assert (again.status, again.stages) == (0, ["sweep", "report"])


def test_more_rounds_go_on_from_those_that_stand(paper, ran, tmp_path):
    """Table 2 needs one round of MCD and Table 1 five: the same training, longer."""
    teacher = ran["table1"].out / "runs/owt_teacher-mdlm/checkpoints/last.ckpt"
    for name, rounds, resumed in (("table2", 1, 0), ("figure3", 2, 1), ("table2", 1, 2)):
        inside = Inside()
        chain = paper.chain.Chain(
            paper.experiments.table(name),
            paper.chain.Setting(tmp_path).tiny(),
            start=inside,
            say=lambda said: None,
        )
        chain.begin()
        found = chain.distil(paper.experiments.RUNS["mcd"], teacher)
        assert list(found) == [f"MCD round {k}" for k in range(1, rounds + 1)]
        if resumed == 2:  # nothing is left to do
            assert inside.calls == []
            continue
        ((_, given),) = inside.calls
        assert f"algo.rounds={rounds}" in given
        resume = "checkpointing.resume_ckpt_path="
        assert sum(x.startswith(resume) for x in given) == resumed


def test_a_folder_of_other_settings_is_refused(paper, ran, capsys):
    out = ran["table1"].out
    flags = ["--smoke", "--out", str(out), "--methods", "mcd", "--seed", "2"]
    assert paper.command.main("table1", flags, start=Inside()) == 1
    assert "has a run with another overrides" in capsys.readouterr().err


def test_a_training_that_fails_says_where_and_why(paper, tmp_path, capsys):
    flags = ["--smoke", "--out", str(tmp_path), "loader.nonsense=1"]
    assert paper.command.main("figure3", flags, start=Inside()) == 1
    said = capsys.readouterr().err
    assert "teacher stopped at step 0 of 2" in said and "nonsense" in said
    assert "Traceback" not in said
