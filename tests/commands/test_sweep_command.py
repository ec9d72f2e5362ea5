"""`mdlm-mcd sweep`: models opened from their weights, and the whole command."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from omegaconf import OmegaConf

from mdlm_mcd import sampling
from mdlm_mcd.commands import export, main
from mdlm_mcd.commands import sweep as measure
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation import candidates, embedded, evaluators
from mdlm_mcd.hosts import duo
from mdlm_mcd.minihost import main as minihost


def test_a_model_is_the_hosts_own(runs):
    """The same logits, the same schedule, the same vocabulary; averaged weights."""
    opened = candidates.open_model(candidates.Source.parse(f"mine={runs['mdlm']}"))
    host, tokenizer = embedded.open_model(runs["mdlm"])
    z = torch.randint(0, 250, (3, 16))
    rows = torch.rand(3, 16) < 0.5
    z[rows] = host.mask_index
    torch.testing.assert_close(opened.denoise(z, rows), duo.denoiser(host)(z, rows))
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(opened.alpha(t), host.noise(t)[1])
    torch.testing.assert_close(opened.noise(t)[0], host.noise(t)[0])
    assert (opened.mask_index, opened.vocab_size) == (host.mask_index, host.vocab_size)
    assert opened.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert (opened.label, opened.length) == ("mine", 16)
    said = opened.provenance
    assert (said["host"], said["algo"], said["checkpoint"]) == ("minihost", "mdlm", "last.ckpt")


def test_an_export_has_the_same_hash(runs, tmp_path):
    """Whatever file holds them: the row's hash is that of the weights."""
    export.export(str(runs["mdlm"]), tmp_path / "out", tokenizer="bpe")
    one, other = (
        candidates.open_model(candidates.Source.parse(str(path)))
        for path in (runs["mdlm"], tmp_path / "out")
    )
    assert one.provenance["sha256"] == other.provenance["sha256"]
    assert other.provenance["host"] == "Hugging Face"
    raw = candidates.open_model(candidates.Source("raw", str(runs["mdlm"]), which="raw"))
    assert raw.provenance["sha256"] != one.provenance["sha256"]


def test_labels():
    parse = candidates.Source.parse
    assert parse("a=b.ckpt") == candidates.Source("a", "b.ckpt")
    assert parse("run/checkpoints/round-5.ckpt").label == "run/round-5"
    assert parse("x/y/w.safetensors").label == "y/w"
    assert parse("kuleshov-group/mdlm-owt").label == "kuleshov-group/mdlm-owt"


@pytest.mark.parametrize(
    "config, t, expected",
    [
        ({}, 0.5, 1 - 0.999 * 0.5),
        ({"noise": {"type": "log-linear", "eps": 0.1}}, 0.5, 0.55),
        ({"noise": {"type": "cosine", "eps": 1e-3}}, 0.0, 1.0),
        # MDLM's cosine is another, and falls from 1 as well.
        ({"noise": {"type": "cosine"}, "parameterization": "subs"}, 1.0, 1e-3),
        ({"noise": {"type": "loglinear", "sigma_min": 1e-4}}, 1.0, 1e-3),
        (
            {
                "noise": {"type": "linear", "sigma_min": 0.0, "sigma_max": 2.0},
                "parameterization": "subs",
            },
            1.0,
            0.1353,
        ),
    ],
)
def test_schedules(config, t, expected):
    alpha = candidates.schedule(config, "x")(torch.tensor([t], dtype=torch.float64))
    assert float(alpha) == pytest.approx(expected, abs=1e-4)


def test_a_schedule_nobody_knows():
    with pytest.raises(ConfigError, match="noise.type=zigzag"):
        candidates.schedule({"noise": {"type": "zigzag"}}, "x")


def broken(runs, tmp_path, change):
    held = torch.load(runs["mdlm"], weights_only=True)
    config = OmegaConf.create(held["hyper_parameters"]["config"])
    change(config)
    held["hyper_parameters"]["config"] = OmegaConf.to_container(config)
    path = tmp_path / "changed.ckpt"
    torch.save(held, path)
    return candidates.Source.parse(str(path))


def test_what_cannot_be_sampled(runs, tmp_path):
    def nameless(config):
        del config.data.tokenizer_name_or_path

    with pytest.raises(ConfigError, match="does not say its tokenizer.*--tokenizer"):
        candidates.open_model(broken(runs, tmp_path, nameless))

    def another(config):
        config.data.vocab_size = 280

    with pytest.raises(ConfigError, match="has a vocabulary of"):
        candidates.open_model(broken(runs, tmp_path, another))
    with pytest.raises(CheckpointError, match="parameterization=ar"):
        candidates.open_model(candidates.Source.parse(str(runs["ar"])))


def test_from_the_command_line(runs, tmp_path, capsys):
    """Two models, resumed, and the page; the evaluator is the host's AR model."""
    out, page = tmp_path / "r.jsonl", tmp_path / "r.html"
    settings = "--num-samples 6 --batch-size 4 --bound-rows 4".split()
    settings += ["--evaluator", str(runs["ar"]), "--out", str(out)]
    grid = "--steps 2,4 --temperature 1,0.5 --u-law iid lattice:1/2".split()
    command = ["sweep", f"a={runs['mdlm']}", f"b={runs['mdlm']}", *grid, *settings]
    assert main.main(command) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 16
    laws = {(r["u_law"], r["u_step"]) for r in rows}
    assert laws == {("iid", None), ("lattice", 0.5)}
    assert all(r["metrics"]["perplexity"]["value"] > 1 for r in rows)
    assert "torch" in rows[0]["versions"] and rows[0]["machine"]["device"] == "cpu"
    before = out.read_bytes()
    assert main.main(command) == 0 and out.read_bytes() == before
    assert "16 rows in" in capsys.readouterr().out
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    assert "<script" not in page.read_text()


@pytest.mark.parametrize(
    "change, words",
    [
        pytest.param(  # a name that may be on the Hub, which is asked several times
            ["--evaluator", "no/such-evaluator"],
            "evaluator=no/such-evaluator cannot",
            marks=pytest.mark.slow,
        ),
        (["--steps", "0"], "--steps 0"),
        (["--sampler", "sprase"], "--sampler sprase is unknown: choose one of"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--device", "cuda:7"], "no CUDA device is there"),
    ],
)
def test_refused_in_a_sentence(runs, tmp_path, capsys, change, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "cuda" in change[1] and torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    command = ["sweep", str(runs["mdlm"]), "--evaluator", str(runs["ar"]), "--steps", "2"]
    command += ["--num-samples", "4", "--out", str(tmp_path / "r.jsonl")]
    assert main.main([*command, *change]) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_an_evaluator_that_does_not_fit(runs, module_compose, tmp_path):
    opened = candidates.open_model(candidates.Source.parse(str(runs["mdlm"])))
    where = f"checkpointing.save_dir={tmp_path}"
    minihost.run(module_compose("trainer.max_steps=2", "algo=ar", "model.length=8", where))
    short = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match="was trained on 8 tokens"):
        measure.evaluator(str(short), "cpu", 4, opened)
    # As many tokens, and others.
    text = tmp_path / "other.txt"
    words = (f"{i * 7919} zebras yawn at {i * 104729} lazy foxes" for i in range(99))
    text.write_text("\n\n\n".join(words))
    where = f"checkpointing.save_dir={tmp_path / 'other'}"
    minihost.run(module_compose("trainer.max_steps=1", "algo=ar", where, f"data.files=[{text}]"))
    other = tmp_path / "other" / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match="has a vocabulary of 301, and the model"):
        measure.evaluator(str(other), "cpu", 4, opened)


@pytest.fixture(scope="module")
def three(runs, tmp_path_factory):
    """The model, and two others of its size."""
    folder, found = tmp_path_factory.mktemp("three"), [f"a={runs['mdlm']}"]
    for i, label in enumerate("bc", 1):
        held = torch.load(runs["mdlm"], weights_only=True)
        for average in held["ema"]["shadow_params"]:
            average += 1e-3 * i
        torch.save(held, folder / f"{label}.ckpt")
        found.append(f"{label}={folder / label}.ckpt")
    return found


@pytest.fixture(scope="module")
def causal(runs, tmp_path_factory):
    """A causal language model of transformers, with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("causal")
    tokenizer = candidates.open_model(candidates.Source.parse(str(runs["mdlm"]))).tokenizer
    tokenizer.save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=64
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["causal", "ar"])
def test_what_is_opened_for_many_models(runs, three, causal, kind, tmp_path, monkeypatch, capsys):
    """The text once, and the evaluator once, where a point is missing."""
    opened = {"text": 0, "evaluator": 0}

    def count(what, where, attribute):
        real = getattr(where, attribute)

        def call(*args, **how):
            opened[what] += 1
            return real(*args, **how)

        monkeypatch.setattr(where, attribute, call)

    count("text", candidates, "held_out")
    if kind == "causal":
        count("evaluator", evaluators.CausalLM, "load")
        judge = name = str(shutil.copytree(causal, tmp_path / "judge"))
    else:
        count("evaluator", embedded, "open_model")
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        judge = str(shutil.copy(runs["ar"], tmp_path / "run/checkpoints/judge.ckpt"))
        name = "run/judge (minihost AR)"
    out = tmp_path / "r.jsonl"

    def sweep():
        opened.update(text=0, evaluator=0)
        settings = "--steps 2 --num-samples 4 --bound-rows 4".split()
        status = main.main(["sweep", *three, *settings, "--evaluator", judge, "--out", str(out)])
        return status, opened["text"], opened["evaluator"]

    assert sweep() == (0, 1, 1)
    rows = out.read_text("utf-8").splitlines(keepends=True)
    assert [json.loads(row)["evaluator"] for row in rows] == [name] * 3
    # Where nothing is missing it need not be there; else it is asked for first.
    os.rename(judge, tmp_path / "elsewhere")
    assert sweep() == (0, 1, 0)
    out.write_text(rows[0] + rows[2], "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", lambda *a, **k: pytest.fail("drew"))
        assert sweep() == (1, 1, 1)
    said = capsys.readouterr().err
    assert judge in said and "Traceback" not in said
    os.rename(tmp_path / "elsewhere", judge)
    assert sweep() == (0, 1, 1)
    again = json.loads(out.read_text("utf-8").splitlines()[2])
    assert again["metrics"] == json.loads(rows[1])["metrics"]


def test_the_text_of_each_tokenizer_and_length(runs, three, monkeypatch):
    opened = []
    monkeypatch.setattr(candidates, "held_out", lambda *args: opened.append(args) or args)
    text = measure.HeldOut(candidates.Source.parse(three[0]), 8, ())
    one, two, other = (candidates.open_model(candidates.Source.parse(s)) for s in three)
    assert text(one) is text(two) and len(opened) == 1
    assert text(replace(other, length=8)) is not text(other) and len(opened) == 2
    other.tokenizer.add_special_tokens({"sep_token": "<sep>"})
    assert text(other) is not text(one) and len(opened) == 3


def test_one_evaluator_reads_the_samples_of_each_tokenizer(causal):
    judge = evaluators.CausalLM.load(str(causal))

    class Words:
        def __init__(self, word):
            self.word = word

        def batch_decode(self, tokens):
            return [self.word * 8 for _ in tokens]

    one, two = judge.reading(Words("cat ")), judge.reading(Words("dog "))
    assert one.model is two.model is judge.model and judge.source is None
    tokens = torch.zeros(1, 8, dtype=torch.long)
    assert not torch.equal(one.nll(tokens).nats, two.nll(tokens).nats)
    fresh = evaluators.CausalLM.load(str(causal), source=Words("dog "))
    assert torch.equal(fresh.nll(tokens).nats, two.nll(tokens).nats)


def test_two_models_of_one_name(runs, capsys):
    path = str(runs["mdlm"])
    assert main.main(["sweep", path, path, "--steps", "2"]) == 1
    assert "tell them apart with LABEL=CKPT" in capsys.readouterr().err
