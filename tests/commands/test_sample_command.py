"""`mdlm-mcd sample`: what is given stays, and the rest is drawn as a sweep draws it."""

import re

import pytest
import torch

from mdlm_mcd.commands import main
from mdlm_mcd.evaluation import candidates, sweep
from mdlm_mcd.evaluation.plan import Plan, Setting


@pytest.fixture
def sample(runs, capsys):
    """`sample(*argv)`: (what it says first, the texts)."""

    def call(*argv):
        assert main.main(["sample", str(runs["mdlm"]), *map(str, argv)]) == 0
        first, *texts = re.split(r"\n\n--- \d+\n", capsys.readouterr().out.removesuffix("\n"))
        return first, texts

    return call


@pytest.mark.parametrize("sampler", ["sparse", "ancestral", "locked", "first_hitting"])
def test_a_prompt_begins_each_sample(sample, sampler):
    first, texts = sample("--prompt", "the cat", "--count", 3, "--sampler", sampler)
    assert "drawn in float64" in first and re.search(r"entropy \d\.\d{3} nats", first)
    assert len(texts) == 3 and all(text.startswith("the cat") for text in texts)
    assert len(set(texts)) == 3


def test_gaps_are_filled_and_the_rest_stays(sample):
    given = ["--infill", "the [MASK:3] sat on[MASK:2]", "--count", 5, "--batch-size", 2]
    given += ["--u-law", "lattice:1/4", "--steps", 4]
    first, texts = sample(*given)
    assert len(texts) == 5 and all(re.match(r"the .* sat on.", t, re.DOTALL) for t in texts)
    assert sample(*given)[1] == texts != sample(*given, "--seed", 2)[1]


def test_a_file_of_prompts_of_different_lengths(sample, tmp_path):
    """Each as if it were alone, under `locked`, whose noise is by the sample's number."""
    prompts = ["a", "the cat sat", "dog\u2028a"]  # a line end to str.splitlines alone
    text = "\ufeff" + "\r\n\r\n".join(prompts) + "\n"
    (tmp_path / "p.txt").write_text(text, encoding="utf-8", newline="")
    law = ("--sampler", "locked", "--u-law", "halton", "--stratified")
    _, texts = sample("--file", tmp_path / "p.txt", "--count", 2, *law)
    assert [t.startswith(prompts[i // 2]) for i, t in enumerate(texts)] == [True] * 6
    assert sample("--prompt", "a", "--count", 2, *law)[1] == texts[:2]


def test_without_a_prompt_the_samples_are_those_of_a_sweep(sample, runs):
    _, texts = sample("--count", 5, "--batch-size", 4, "--u-law", "lattice:1/8", "--top-p", 0.9)
    model = candidates.open_model(candidates.Source("x", str(runs["mdlm"])))
    point = Setting(u_law="lattice", u_step=1 / 8, top_p=0.9)
    tokens, _ = sweep.draw(model, point, Plan((point,), 5, 4))
    assert texts == model.tokenizer.batch_decode(tokens)


def test_a_completion_ends_at_its_eos(sample, monkeypatch):
    drawn = sweep.draw

    def ends(*args, prompt, **how):
        tokens, evaluations = drawn(*args, prompt=prompt, **how)
        rest = torch.arange(tokens.shape[1]) >= 8
        return tokens.where(~rest, 1), evaluations  # of bpe, <|eos|>

    monkeypatch.setattr("mdlm_mcd.commands.sample.draw", ends)
    assert "<|eos|>" not in sample("--prompt", "the")[1][0]
    assert sample()[1][0].count("<|eos|>") >= 8


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--prompt", "the cat " * 20], "--prompt has .* a row of the model 16"),
        (["--infill", "a [MASK:99999999999999]"], "--infill has .* a row of the model 16"),
        (["--infill", "a [MASK] b"], "has no gap: write"),
        (["--file", "nowhere.txt"], "--file nowhere.txt cannot be read"),
        (["--count", "0"], "--count=0"),
        (["--steps", "0"], "--steps 0"),
        (["--sampler", "sparse:u_law=lattice"], "give it as --u-law LAW:STEP"),
        (["--device", "foo"], "--device foo cannot be used"),
        (["--u-law", "lattice:auto"], "u_step=auto"),
        (["--sampler", "confidence", "--u-law", "halton"], "is not supported with"),
    ],
)
def test_refusals(runs, capsys, argv, words):
    assert main.main(["sample", str(runs["mdlm"]), *argv]) == 1
    assert re.search(words, " ".join(capsys.readouterr().err.split()))
