"""The paper's setting as data, the dry run that composes it, and bad input."""

import os
from pathlib import Path

import pytest
from inside import Inside

TABLES = ("table1", "table2", "table3", "figure3")


def test_hyperparameters_of_section_4(paper):
    """Section 4.1 in the composed config, of all the distillers it compares."""
    for name in ("mcd", "sdtt"):
        config = paper.compose.embedded([f"algo={name}", f"+recipe=owt_{name}"])
        assert config.optim.lr == 6e-5 and config.lr_scheduler.num_warmup_steps == 500
        assert config.loader.global_batch_size == 128
        assert (config.algo.rounds, config.algo.steps_per_round) == (5, 10_000)
        assert config.trainer.max_steps == 50_000
        assert config.algo.delta0 == 1 / 512
        assert (config.model.length, config.model.hidden_size) == (1024, 768)
        assert config.data.tokenizer_name_or_path == "gpt2"
        tempered = name == "mcd"
        assert config.algo.tau0 == (0.96 if tempered else 1.0)
        assert config.algo.tau_step == (0.03 if tempered else 0.0)
    assert (config.algo.loss, config.algo.teacher_steps) == ("kl_bwd", 2)


def test_published_figures(paper):
    """The paper's own words, number by number where its text repeats its tables."""
    tables = paper.experiments.TABLES
    one, two, three, figure = (tables[name].published for name in TABLES)
    assert one["MCD round 5", 32] == 39.73 and one["SDTT round 5", 32] == 52.16
    assert one["teacher", 512] == 54.74 and one["Duo teacher", 32] == 96.46
    assert one["Duo round 5", 512] == 52.15
    # teacher, Duo's teacher and three methods of five rounds, at five step counts
    assert len(one) == (2 + 3 * 5) * 5
    assert two == {
        ("teacher", 32): 163.27,
        ("MCD round 1", 32): 94.97,
        ("MCD kl_fwd round 1", 32): 110.86,
        ("MCD kl_bwd round 1", 32): None,
    }
    # "Imp." of Table 3 is the student's against the teacher's.
    improved = (21.55, 22.04, 23.07, 23.28, 22.85)
    for n, percent in zip(tables["table3"].steps, improved, strict=True):
        teacher, student = three["teacher", n], three["MCD round 1", n]
        assert 100 * (1 - student / teacher) == pytest.approx(percent, abs=0.01)
    assert figure["MCD round 5", 8] == 118.1
    for table in tables.values():  # each published row is one that the table makes
        names = {run.key(k) for run in table.trained for k in table.rounds}
        assert {name for name, _ in table.published} <= names | {"teacher", "Duo teacher"}
        assert {n for _, n in table.published} <= set(table.steps)


def dry(paper, name, *flags, capsys):
    status = paper.command.main(name, ["--dry-run", *flags])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("name", TABLES)
def test_dry_runs(paper, name, capsys):
    table = paper.experiments.table(name)
    runs = [run.name for run in table.trained]
    status, out, err = dry(paper, name, "--teacher", "train", capsys=capsys)
    assert status == 0, err
    size = "863.2M" if name == "table3" else "169.6M"
    for run in (table.teacher_recipe, *runs):
        assert f"| {run} | minihost | {size} |" in out
    assert "not measured" in out and "312 TFLOP/s at 40% MFU" in out
    for n in table.steps:
        assert f"\n| {n} | " in out


def test_the_dry_run_composes_what_is_given(paper, capsys):
    flags = ["loader.global_batch_size=64", "trainer.precision=bf16-mixed"]
    status, out, _ = dry(paper, "figure3", *flags, capsys=capsys)
    assert status == 0 and "| mcd | minihost | 169.6M | 64 | 50,000 | 6.45e+13 |" in out
    status, _, err = dry(paper, "figure3", "algo.lr=1", capsys=capsys)
    assert status == 1 and "does not compose" in err and "algo.lr" in err
    assert "Traceback" not in err


@pytest.mark.hosts
def test_dry_runs_in_the_hosts(paper, capsys):
    from hosts.clones import find

    from mdlm_mcd.hosts.specs import DUO, of_folder

    found = find()
    if not found:
        pytest.skip("MDLM_MCD_HOSTS names no clones")
    for folder in found.values():
        for name in ("table1", "table3"):
            methods = "mcd,sdtt" if name == "table1" else "mcd-large,sdtt-large"
            if name == "table1" and of_folder(folder) is DUO:
                methods += ",dcd"
            flags = ["--methods", methods, "--host", str(folder), "--cache", "cache"]
            status, out, err = dry(paper, name, *flags, capsys=capsys)
            assert status == 0, err
            for run in methods.split(","):
                rows = [x for x in out.splitlines() if x.startswith(f"| {run} |")]
                hosts = [row.split(" | ")[1] for row in rows]
                assert hosts == ["minihost", folder.name]
                assert len({row.split(" | ", 2)[2] for row in rows}) == 1
    assert "MDLM_MCD_PATCHED" not in os.environ


GIVEN = {
    "--out": "out",
    "--teacher": "teacher.ckpt",
    "--duo-teacher": "duo.ckpt",
    "--held-out": "held.txt",
    "--device": "cpu",
    "--evaluator": "evaluator",
    "--methods": "mcd,sdtt",
    "--data": "held.txt",
}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"--out": None}, "--out is missing: name the folder"),
        ({"--teacher": None}, "--teacher is missing: name a checkpoint"),
        ({"--teacher": "no.ckpt"}, "--teacher no.ckpt is not there"),
        ({"--methods": "dcd", "--duo-teacher": None}, "--duo-teacher is missing"),
        ({"--methods": "dcd"}, "the embedded host samples only such a file"),
        ({"--methods": "mcd,mdc"}, "--methods mcd,mdc: table1 knows mcd, sdtt, dcd"),
        ({"--host": "nowhere"}, "nowhere is no folder: name a clone"),
        ({"--host": "."}, "holds no host this plugin knows"),
        ({"--data": None, "--held-out": None}, "--held-out is missing: name files"),
        ({"--held-out": "no.txt"}, "--held-out no.txt is not there"),
        ({"--data": "no.txt"}, "is not there: name a text file"),
        ({"--device": "cuda"}, "no CUDA device is there"),
        ({"--evaluator": "no-such-folder"}, "--evaluator no-such-folder is not reach"),
        ({"--evaluator": "meta-llama/Meta-Llama-3-8B"}, "accept its licence"),
    ],
)
def test_bad_input(paper, tmp_path, monkeypatch, capsys, changed, said):
    """Found before anything is trained, and said in one sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper.check.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "transformers.AutoConfig.from_pretrained",
        lambda name: (_ for _ in ()).throw(OSError(f"{name} is no local folder.")),
    )
    for name in ("teacher.ckpt", "duo.ckpt", "held.txt"):
        Path(name).write_text("text", "utf-8")
    flags = {**GIVEN, **changed}
    flags = [x for key, value in flags.items() if value for x in (key, value)]
    inside = Inside()
    assert paper.command.main("table1", flags, start=inside) == 1
    err = capsys.readouterr().err
    assert said in err and inside.calls == []
    assert err.startswith("table1: ") and err.count("\n") == 1


def test_a_clone_needs_a_cache(paper, tmp_path, monkeypatch, capsys):
    """The hosts' own data.cache_dir is a folder of their authors' cluster."""
    from mdlm_mcd.hosts.specs import DUO, MDLM

    layout = DUO
    monkeypatch.setattr(paper.check, "of_folder", lambda folder: layout)
    flags = ["--out", str(tmp_path / "out"), "--host", str(tmp_path)]
    for more, said in (
        (["--methods", "mcd"], "--cache is missing"),
        (["--methods", "mcd", "--data", "x"], "--data is for the embedded host"),
    ):
        assert paper.command.main("table1", [*flags, *more], start=Inside()) == 1
        assert said in capsys.readouterr().err
    layout = MDLM
    for more, said in (
        (["--methods", "dcd"], "which has no uniform-state models"),
        (["--methods", "mcd", "--teacher", "train"], "scripts/train_owt_mdlm.sh"),
    ):
        assert paper.command.main("table1", [*flags, *more], start=Inside()) == 1
        assert said in capsys.readouterr().err


def test_what_a_clone_is_started_with(paper, tmp_path):
    """`mdlm-mcd run` in the clone's folder, its data where the user keeps them."""
    seen = []

    def start(module, arguments, log, *, folder=None, seconds=None):
        seen.append((module, folder, arguments))
        return 1

    given = paper.chain.Setting(
        tmp_path / "out",
        "teacher.ckpt",
        host=tmp_path,
        cache="/data/cache",
        overrides=("loader.batch_size=16",),
    )
    chain = paper.chain.Chain(paper.experiments.table("figure3"), given, start=start, say=print)
    with pytest.raises(paper.stages.StageError):
        chain.run()
    ((module, folder, given),) = seen
    assert (module, folder) == ("mdlm_mcd.hosts.launch", tmp_path)
    wanted = (
        "algo=mcd +recipe=owt_mcd algo.teacher_path=teacher.ckpt data.cache_dir=/data/cache "
        "trainer.devices=2 loader.batch_size=16 algo.rounds=5 algo.steps_per_round=10000 "
        "trainer.max_steps=50000"
    )
    assert set(wanted.split()) <= set(given)
    assert not any("strategy" in x for x in given)  # the clones' own is ddp


def test_paths_are_the_users_own(paper, tmp_path, monkeypatch):
    """Trainings run elsewhere, and Hydra's grammar has a meaning for = and spaces."""
    monkeypatch.chdir(tmp_path)
    Path("epoch=1 last.ckpt").write_text("weights", "utf-8")
    flags = ["--out", "out", "--teacher", "epoch=1 last.ckpt", "--duo-teacher", "a/b"]
    args = paper.command.parser(paper.experiments.table("table1")).parse_args(flags)
    given = paper.command.setting(args)
    assert given.teacher == str(tmp_path / "epoch=1 last.ckpt")
    assert given.duo_teacher == "a/b"  # on the Hub
    run = paper.experiments.RUNS["mcd"]
    chain = paper.chain.Chain(paper.experiments.table("table1"), given)
    config = paper.compose.embedded(chain.overrides(run, given.teacher))
    assert config.algo.teacher_path == given.teacher
    override = paper.stages.override
    for value in ("a,b", "it's", "{x}", "[1]", "a: b"):
        config = paper.compose.embedded(["algo=mcd", override("data.cache_dir", value)])
        assert config.data.cache_dir == value
    config = paper.compose.embedded(
        ["data=textfile", override("data.files", ["a b.txt", "c=d/*.txt"])]
    )
    assert list(config.data.files) == ["a b.txt", "c=d/*.txt"]


def test_how_a_batch_is_divided_may_change(paper, tmp_path):
    """Noise is that of the global batch: other devices go on with the same run."""

    def fit(**given):
        table, setting = paper.experiments.table("figure3"), paper.chain.Setting(tmp_path, **given)
        chain = paper.chain.Chain(table, setting, start=lambda *a, **k: 1, say=print)
        chain.begin()
        chain.distil(table.trained[0], "t.ckpt")

    for devices, micro in ((2, 16), (4, 8)):
        with pytest.raises(paper.stages.StageError):
            fit(devices=devices, overrides=(f"loader.batch_size={micro}",))
    with pytest.raises(paper.check.ConfigError, match="with another overrides"):
        fit(overrides=("optim.lr=1",))
