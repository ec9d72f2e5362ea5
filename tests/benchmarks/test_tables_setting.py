"""The paper's setting as data, what stops a table before it starts, and paths."""

from pathlib import Path

import pytest
from inside import Inside
from paper import command
from paper.chain import Chain
from paper.compose import embedded
from paper.experiments import RUNS, TABLES

from mdlm_mcd.commands.stages import override


@pytest.mark.parametrize("name, tau0, tau_step", [("mcd", 0.96, 0.03), ("sdtt", 1.0, 0.0)])
def test_hyperparameters_of_section_4(name, tau0, tau_step):
    config = embedded([f"algo={name}", f"+recipe=owt_{name}"])
    assert (config.optim.lr, config.optim.beta2) == (6e-5, 0.999)
    assert config.lr_scheduler.num_warmup_steps == 500
    assert config.loader.global_batch_size == 128 and config.training.ema == 0.999
    assert config.sampling.predictor == "sparse" and config.sampling.use_float64
    assert config.training.loss_precision == "float32"
    assert (config.algo.rounds, config.algo.steps_per_round) == (5, 10_000)
    assert config.trainer.max_steps == 50_000 and config.algo.delta0 == 1 / 512
    assert (config.algo.tau0, config.algo.tau_step) == (tau0, tau_step)
    assert (config.model.length, config.model.hidden_size) == (1024, 768)
    assert config.data.tokenizer_name_or_path == "gpt2"
    if name == "sdtt":
        assert (config.algo.loss, config.algo.teacher_steps) == ("kl_bwd", 2)


GIVEN = {
    "--out": "out",
    "--teacher": "teacher.ckpt",
    "--held-out": "held.txt",
    "--device": "cpu",
    "--methods": "mcd,sdtt",
}


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"--out": None}, "--out is missing"),
        ({"--teacher": None}, "--teacher is missing"),
        ({"--methods": "dcd"}, "--duo-teacher is missing"),
        ({"--methods": "mcd,mdc"}, "--methods mcd,mdc: table1 knows mcd, sdtt, dcd"),
        ({"--held-out": None}, "--held-out is missing"),
        ({"--host": "."}, "--cache is missing"),
        ({"--device": "cuda"}, "no CUDA device is there"),
        ({"--evaluator": "meta-llama/Meta-Llama-3-8B"}, "accept its licence"),
    ],
)
def test_bad_input(monkeypatch, capsys, changed, words):
    """Found before anything is trained, in one sentence."""
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "transformers.AutoConfig.from_pretrained",
        lambda name: (_ for _ in ()).throw(OSError(f"{name} is no local folder.")),
    )
    flags = [x for key, value in {**GIVEN, **changed}.items() if value for x in (key, value)]
    inside = Inside()
    assert command.main("table1", flags, run=inside) == 1
    err = capsys.readouterr().err
    assert words in err and inside.calls == []
    assert err.startswith("table1: ") and err.count("\n") == 1


def test_paths_are_the_users_own(tmp_path, monkeypatch):
    """Trainings run elsewhere, and Hydra's grammar has a meaning for = and spaces."""
    monkeypatch.chdir(tmp_path)
    Path("epoch=1 last.ckpt").write_text("weights", "utf-8")
    flags = ["--out", "out", "--teacher", "epoch=1 last.ckpt", "--duo-teacher", "a/b"]
    given = command.parsed(TABLES["table1"], flags)
    assert given.teacher == str(tmp_path / "epoch=1 last.ckpt")
    assert given.duo_teacher == "a/b"  # on the Hub
    chain = Chain(TABLES["table1"], given)
    config = embedded(chain.overrides(RUNS["mcd"], given.teacher))
    assert config.algo.teacher_path == given.teacher
    odd = ["a b.txt", "c=d/*.txt", "a,b", "it's", "{x}", "[1]", "a: b"]
    config = embedded(["data=textfile", override("data.files", odd), override("mode", odd[-1])])
    assert list(config.data.files) == odd and config.mode == odd[-1]
