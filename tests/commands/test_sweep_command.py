"""`mdlm-mcd sweep`: models opened from their weights, and the whole command."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import hosted
import pytest
import texts
import torch

from mdlm_mcd import sampling
from mdlm_mcd.commands import export, main
from mdlm_mcd.commands import sweep as measure
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation import candidates, embedded
from mdlm_mcd.hosts import duo


def opened(path, which="ema", label="x"):
    return candidates.open_model(candidates.Source(label, str(path), which))


def test_a_model_is_the_hosts_own(runs):
    """The same logits, the same schedule, the same vocabulary; averaged weights."""
    mine, (host, tokenizer) = opened(runs["mdlm"]), hosted.open_model(runs["mdlm"])
    z = torch.randint(0, 250, (3, 16))
    rows = torch.rand(3, 16) < 0.5
    z[rows] = host.mask_index
    torch.testing.assert_close(mine.denoise(z, rows), duo.denoiser(host)(z, rows))
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(mine.alpha(t), host.noise(t)[1])
    torch.testing.assert_close(mine.noise(t)[0], host.noise(t)[0])
    assert (mine.mask_index, mine.vocab_size) == (host.mask_index, host.vocab_size)
    assert mine.tokenizer.get_vocab() == tokenizer.get_vocab() and mine.length == 16
    noted = mine.provenance
    assert (noted["host"], noted["algo"], noted["checkpoint"]) == ("minihost", "mdlm", "last.ckpt")


def test_an_export_has_the_same_hash(runs, tmp_path):
    """Whatever file holds them: the row's hash is that of the weights."""
    export.export(str(runs["mdlm"]), tmp_path / "out", tokenizer="bpe")
    files = (runs["mdlm"], "ema"), (tmp_path / "out", "ema"), (runs["mdlm"], "raw")
    one, other, raw = (opened(path, which).provenance for path, which in files)
    assert one["sha256"] == other["sha256"] != raw["sha256"]
    assert other["host"] == "Hugging Face"


def test_labels():
    parse = candidates.Source.parse
    assert parse("a=b.ckpt") == candidates.Source("a", "b.ckpt")
    assert parse("run/checkpoints/round-5.ckpt").label == "run/round-5"
    assert parse("x/y/w.safetensors").label == "y/w"
    assert parse("kuleshov-group/mdlm-owt").label == "kuleshov-group/mdlm-owt"


LINEAR = {"type": "linear", "sigma_min": 0.0, "sigma_max": 2.0}


@pytest.mark.parametrize(
    "config, t, expected",
    [
        ({}, 0.5, 1 - 0.999 * 0.5),
        ({"noise": {"type": "log-linear", "eps": 0.1}}, 0.5, 0.55),
        ({"noise": {"type": "cosine", "eps": 1e-3}}, 0.0, 1.0),
        # MDLM's cosine is another, and falls from 1 as well.
        ({"noise": {"type": "cosine"}, "parameterization": "subs"}, 1.0, 1e-3),
        ({"noise": {"type": "loglinear", "sigma_min": 1e-4}}, 1.0, 1e-3),
        ({"noise": LINEAR, "parameterization": "subs"}, 1.0, 0.1353),
        # MDLM reads no eps.
        ({"noise": {"type": "loglinear", "eps": 0.1}, "parameterization": "subs"}, 1.0, 1e-3),
    ],
)
def test_schedules(config, t, expected):
    alpha = candidates.schedule(config, "x")(torch.tensor([t], dtype=torch.float64))
    assert float(alpha) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "name, key, value, words",
    [
        ("mdlm", "tokenizer_name_or_path", None, "does not say its tokenizer.*--tokenizer"),
        ("mdlm", "vocab_size", 280, "has a vocabulary of"),
        ("ar", "vocab_size", 300, "parameterization=ar"),
    ],
)
def test_what_cannot_be_sampled(runs, tmp_path, name, key, value, words):
    content = torch.load(runs[name], weights_only=True)
    data = content["hyper_parameters"]["config"]["data"]
    del data["tokenizer_sha256"]  # as in older ones
    data.pop(key) if value is None else data.update({key: value})
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises((CheckpointError, ConfigError), match=words):
        candidates.open_model(candidates.Source.parse(str(tmp_path / "x.ckpt")))


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


def test_a_samplers_list_is_one_option():
    given = "sparse:schedule=[1,1,2],confidence:spacing=8,ancestral:remask=(0.1,0.2)"
    first, second, third = re.split(measure.COMMA, given)
    assert first == "sparse:schedule=[1,1,2]" and second == "confidence:spacing=8"
    assert sampling.parse(third) == ("ancestral", {"remask": (0.1, 0.2)})


def test_an_evaluator_of_another_tokenizer(runs):
    mine, judge = opened(runs["mdlm"]), embedded.open_judge(str(runs["ar"]))
    given = dict(name="x.ckpt", device="cpu", batch_size=4, load=lambda *_: judge)
    assert measure.evaluator(model=mine, **given)
    with pytest.raises(ConfigError, match="was trained on 16 tokens, and the samples of x have 32"):
        measure.evaluator(model=replace(mine, length=32), **given)
    with pytest.raises(CheckpointError, match="--evaluator .* left-to-right"):
        embedded.open_judge(str(runs["mdlm"]))
    # As many tokens, and others.
    words = {f"{token} ": i for token, i in judge.tokenizer.get_vocab().items()}
    given["load"] = lambda *_: replace(judge, tokenizer=SimpleNamespace(get_vocab=lambda: words))
    with pytest.raises(ConfigError, match="has a vocabulary of 301, and the model"):
        measure.evaluator(model=mine, **given)


def test_an_evaluator_of_transformers(runs, tmp_path):
    mine = opened(runs["mdlm"])
    mine.tokenizer.save_pretrained(tmp_path)
    texts.tiny_gpt2(tmp_path, len(mine.tokenizer))
    judge = measure.evaluator(str(tmp_path), "cpu", 4, mine)
    assert judge.name == str(tmp_path)
    scores = judge.nll(torch.randint(0, 250, (3, 16)))
    assert (scores.nats > 0).all() and (scores.tokens > 0).all()


def test_an_evaluators_name_follows_its_file(runs, tmp_path, monkeypatch):
    """One retrained in its place is another; a name on the Hub is itself."""
    name = measure.evaluator_name
    path = tmp_path / "ar" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(runs["ar"], path)
    was = name(str(path))
    assert was == name(str(runs["ar"])) and re.fullmatch(
        r"ar/last \(minihost AR\), [\da-f]{8}", was
    )
    path.write_bytes(path.read_bytes() + b"\0")
    assert name(str(path)) != was
    (tmp_path / "model.safetensors").write_bytes(b"1")
    was = name(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert name(str(tmp_path)) != was
    one = name(f"{tmp_path}:bfloat16")
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert one.startswith(f"{tmp_path.name}:bfloat16, ") and name(f"{tmp_path}:bfloat16") != one
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    same = (tmp_path, tmp_path.name, *(f"{at}/{tmp_path.name}" for at in ".~"), f"{tmp_path}/")
    assert len({name(str(spelled)) for spelled in same}) == 1
    assert (name("gpt2-large"), name("gpt2:tf32")) == ("gpt2-large", "gpt2:tf32")


def test_equal_weights_under_another_schedule_are_another_model(runs, tmp_path):
    export.export(str(runs["mdlm"]), tmp_path / "a", tokenizer="bpe")
    found, config = set(), tmp_path / "a" / "config.json"
    given = {"algo": {"ignore_bos": True}}
    for changes in ({}, {"noise": {"type": "cosine"}}, {"time_conditioning": True}, given):
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        found.add(opened(tmp_path / "a").provenance["sha256"])
    assert len(found) == 4


def test_evaluator_and_text_are_opened_once_for_many_models(runs, tmp_path, monkeypatch):
    content, three = torch.load(runs["mdlm"], weights_only=True), []
    for label in "abc":
        content["ema"]["shadow_params"][0] += 1e-3
        torch.save(content, tmp_path / f"{label}.ckpt")
        three.append(f"{label}={tmp_path / label}.ckpt")
    calls = []
    for where, name in ((candidates, "held_out"), (embedded, "open_judge")):
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, _=real, **k: calls.append(_) or _(*a, **k))
    out = tmp_path / "r.jsonl"
    settings = "--steps 2 --num-samples 4 --bound-rows 4".split()
    command = ["sweep", *three, *settings, "--evaluator", str(runs["ar"]), "--out", str(out)]
    assert main.main(command) == 0 and len(calls) == 2
    rows = [json.loads(row) for row in out.read_text("utf-8").splitlines()]
    assert {row["evaluator"] for row in rows} == {measure.evaluator_name(str(runs["ar"]))}
    assert len({row["sha256"] for row in rows}) == 3


def test_the_text_of_each_tokenizer_and_length(runs, monkeypatch):
    calls = []
    monkeypatch.setattr(candidates, "held_out", lambda *args: calls.append(args) or args)
    text = measure.held_out(candidates.Source("x", str(runs["mdlm"])), 8, ())
    one, two, other = (opened(runs["mdlm"]) for _ in range(3))
    assert text(one) is text(two) and len(calls) == 1
    assert text(replace(other, length=8)) is not text(other) and len(calls) == 2
    other.tokenizer.add_special_tokens({"sep_token": "<sep>"})
    assert text(other) is not text(one) and len(calls) == 3
