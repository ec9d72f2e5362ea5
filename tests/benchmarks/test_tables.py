"""Each table's whole chain, tiny: distil, sweep, report; and going on after a stop."""

import contextlib
import io
import json
import re
from types import SimpleNamespace

import pytest
from inside import Inside
from paper import command
from paper.chain import Chain
from paper.experiments import RUNS, TABLES

from mdlm_mcd.commands.stages import Ended

METHODS = {"table2": "mcd,mcd-kl_fwd,mcd-kl_bwd", "table1": "mcd,sdtt,dcd,subset,cd4lm"}
# What is trained where the table before has left its trainings in the same folder.
TRAINED = {"table2": "ar mcd mcd mcd mdlm", "table1": "cd4lm dcd duo_base mcd sdtt subset"}


def given(*flags, of="table1"):
    return command.parsed(TABLES[of], [*map(str, flags)])


def smoke(out, name, *flags):
    """Status, stages and words of a table's smoke run."""
    inside, words = Inside(), io.StringIO()
    flags = ["--smoke", "--out", str(out), "--methods", METHODS[name], *flags]
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        status = command.main(name, flags, run=inside)
    return SimpleNamespace(status=status, stages=inside.stages, text=words.getvalue(), out=out)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    return {name: smoke(out, name) for name in METHODS}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_tables_chain(ran, name):
    done, folder = ran[name], ran[name].out / name
    assert done.status == 0, done.text + (done.out / "log.txt").read_text("utf-8")
    trained = [x.removeprefix("algo=") for x in done.stages if x.startswith("algo=")]
    assert sorted(trained) == TRAINED[name].split()
    assert [x for x in done.stages if "=" not in x] == ["sweep", "report"]
    chain = Chain(TABLES[name].chosen(METHODS[name]), given("--smoke", of=name))
    rows = [json.loads(line) for line in (folder / "results.jsonl").open()]
    masked = [run for run in chain.table.trained if not run.diverges and not run.method.uniform]
    wanted = {run.key(k) for run in masked for k in chain.rounds(run)}
    assert {(r["model"], r["steps"]) for r in rows} == {
        (model, n) for model in wanted | {"teacher"} for n in chain.table.steps
    }
    page = (folder / "report.html").read_text("utf-8")
    assert "smoke run" in page and all(label in page for label in wanted)
    table = (folder / "table.md").read_text("utf-8").strip()
    assert done.text.strip().endswith(table)
    assert "its figures mean nothing" in table and "has not reproduced" in table


@pytest.mark.slow
def test_rows_that_are_no_sweeps(ran):
    """Uniform-state models are drawn by their host, and a loss that diverges is a result."""
    assert ran["table1"].stages.count("mode=sample_eval") == 3 * 2  # teacher, rounds; steps
    first, second = ((ran[n].out / n / "table.md").read_text("utf-8") for n in METHODS)
    assert "| MCD kl_bwd round 1 | FAILED [-] | FAILED [-] |" in first
    row = re.search(r"\| Duo round 2 \| - / (\d\.\d\d) \[-\] \|", second)
    assert row and 0 < float(row[1]) < 3


@pytest.mark.slow
def test_what_is_there_is_not_done_again_and_other_settings_are_refused(ran):
    """Though Table 1 went on with Table 2's training, for another round."""
    out = ran["table2"].out
    again = smoke(out, "table2")
    assert (again.status, again.stages) == (0, ["sweep", "report"])
    log = (out / "log.txt").read_text("utf-8")
    (resumed,) = re.findall(r"algo=mcd .*algo.rounds=2.*resume_ckpt_path=(\S+)", log)
    assert "/runs/mcd/checkpoints/" in resumed
    other = smoke(out, "table1", "--seed", "2")
    assert other.status == 1 and "holds a run with another overrides" in other.text


def test_a_training_that_fails_says_where_and_why(tmp_path, capsys):
    flags = ["--smoke", "--out", str(tmp_path), "loader.nonsense=1"]
    assert command.main("figure3", flags, run=Inside()) == 1
    error = capsys.readouterr().err
    assert "owt_teacher-mdlm stopped at step 0 of 2" in error and "nonsense" in error
    assert "Traceback" not in error


def test_what_a_clone_is_started_with(tmp_path):
    """`mdlm-mcd run` in the clone's folder, its data where the user keeps them."""
    seen = []

    def run(module, arguments, log, *, folder=None, on_step=None):
        seen.append((module, folder, arguments))
        return Ended(1)

    flags = ["--out", tmp_path / "out", "--teacher", "t.ckpt", "--host", tmp_path]
    flags += ["--cache", "/data/cache", "loader.batch_size=16"]
    with pytest.raises(command.MCDError):
        Chain(TABLES["figure3"], given(*flags, of="figure3"), run=run).run()
    ((module, folder, arguments),) = seen
    assert (module, folder) == ("mdlm_mcd.hosts.launch", tmp_path)
    wanted = (
        "algo=mcd +recipe=owt_mcd algo.teacher_path=t.ckpt data.cache_dir=/data/cache "
        "trainer.devices=2 loader.batch_size=16 algo.rounds=5 algo.steps_per_round=10000 "
        "trainer.max_steps=50000"
    )
    assert set(wanted.split()) <= set(arguments) and RUNS["mcd"].algo == "mcd"
    assert not any("strategy" in x for x in arguments)  # the clones' own is ddp
