"""Evaluators against the hosts' convention worked out naively, on a tiny GPT-2."""

import math

import pytest
import tokenizers
import torch
import transformers

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import evaluators, intervals

END = "<|endoftext|>"
WORDS = [END, "the", "cat", "sat", "on", "mat", "internationally"]


def fast(model, decoder, **special):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = decoder[0]
    tokenizer.decoder = decoder[1]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    )


def by_word(words=WORDS):
    """The samples' tokenizer: a word a token."""
    split = tokenizers.pre_tokenizers.WhitespaceSplit()
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, END)
    return fast(model, (split, tokenizers.decoders.WordPiece("##")), eos_token=END)


def by_byte():
    """The evaluator's: a byte a token, so that samples differ in length."""
    level = tokenizers.pre_tokenizers.ByteLevel
    names = [END, *sorted(level.alphabet())]
    model = tokenizers.models.BPE({name: i for i, name in enumerate(names)}, [])
    how = (level(add_prefix_space=False), tokenizers.decoders.ByteLevel())
    return fast(model, how, eos_token=END)


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def naive(model, rows, eos, context):
    """The hosts' figure, token by token; rows: lists of ids, padded with EOS.

    Answers [(nats, tokens)] by sample.
    """
    longest = max(map(len, rows))
    out = []
    for row in rows:
        padded = row + [eos] * (longest - len(row))
        nats, count = 0.0, 0
        for start in range(0, longest, context):
            window = padded[start : start + context]
            seen = 0
            for i, token in enumerate(window):
                seen += token == eos
                if i == 0 or (token == eos and seen > 1):
                    continue
                with torch.no_grad():
                    logits = model(torch.tensor([window[:i]])).logits[0, -1]
                nats -= float(logits.double().log_softmax(-1)[token])
                count += 1
        out.append((nats, count))
    return out


# the cat | an EOS inside, and text after it | all EOS | starts with EOS.
SAMPLES = torch.tensor(
    [
        [1, 2, 3, 4, 1, 5],
        [1, 2, 0, 3, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 6, 6, 0, 2, 0],
        [6, 6, 6, 6, 6, 6],
    ]
)


def lm(model, **change):
    how = dict(name="tiny", source=by_word(), batch_size=2, max_length=1000)
    return evaluators.CausalLM(model, by_byte(), **{**how, **change})


@pytest.mark.parametrize("context", [16, 50, 64])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_retokenized_scores_are_the_hosts(gpt2, context, batch_size):
    found = lm(gpt2, context=context, batch_size=batch_size).nll(SAMPLES)
    texts = by_word().batch_decode(SAMPLES)
    assert texts[0] == "the cat sat on the mat" and texts[1].count(END) == 3
    rows = [by_byte()(text)["input_ids"] for text in texts]
    assert max(map(len, rows)) > 64  # several windows, whatever the context
    expected = naive(gpt2, rows, eos=0, context=context)
    assert found.tokens.tolist() == [count for _, count in expected]
    assert found.nats.tolist() == pytest.approx([n for n, _ in expected], rel=1e-4)
    total, tokens = map(sum, zip(*expected, strict=True))
    assert found.perplexity == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_the_first_pad_counts_as_the_hosts_do_and_can_be_left_out(gpt2):
    text = ["the cat", "the cat sat on the mat"]
    hosts = lm(gpt2).nll(text)
    own = lm(gpt2, count_pad=False).nll(text)
    short = by_byte()(text[0])["input_ids"]
    assert hosts.tokens.tolist() == [len(short), len(text[1]) - 1]
    assert own.tokens.tolist() == [len(short) - 1, len(text[1]) - 1]
    logits = gpt2(torch.tensor([short])).logits[0, -1].log_softmax(-1)
    assert float(hosts.nats[0] - own.nats[0]) == pytest.approx(-float(logits[0].detach()), rel=1e-4)
    assert float(hosts.nats[1]) == pytest.approx(float(own.nats[1]))
    # Without padding's token a sample's score is its own.
    alone = lm(gpt2, count_pad=False).nll(text[:1])
    assert float(alone.nats[0]) == pytest.approx(float(own.nats[0]), rel=1e-5)


def test_samples_are_cut_to_their_own_length_as_the_hosts_do(gpt2):
    found = lm(gpt2, max_length=None).nll(SAMPLES[:1])
    assert found.tokens.tolist() == [SAMPLES.shape[1] - 1]
    assert lm(gpt2, max_length=4).nll(SAMPLES[:1]).tokens.tolist() == [3]


def test_markup_of_another_spelling_can_be_replaced(gpt2):
    strange = ["the cat</s>", "the cat sat on"]
    plain = lm(gpt2).nll(strange)
    known = lm(gpt2, replace={"</s>": END}).nll(strange)
    assert plain.tokens.tolist()[0] == len("the cat</s>")
    assert known.tokens.tolist()[0] == len("the cat")


def test_the_same_vocabulary_needs_no_retokenization(gpt2):
    byte = by_byte()
    ids = torch.tensor([byte("the cat sat")["input_ids"], [5] * 5 + [0] * 6])
    direct = evaluators.CausalLM(gpt2, byte, name="tiny", source=by_byte(), retokenize=False).nll(
        ids
    )
    expected = naive(gpt2, ids.tolist(), eos=0, context=11)
    assert direct.tokens.tolist() == [10, 5]
    assert direct.nats.tolist() == pytest.approx([n for n, _ in expected], rel=1e-4)


def test_another_vocabulary_is_refused_without_retokenization(gpt2):
    with pytest.raises(ConfigError, match="reads token 1 as '!' and .* as 'the'"):
        lm(gpt2, retokenize=False).nll(SAMPLES)
    with pytest.raises(ConfigError, match="give the samples' tokenizer as source"):
        lm(gpt2, retokenize=False, source=None)
    with pytest.raises(ConfigError, match="given texts: leave retokenize on"):
        lm(gpt2, retokenize=False).nll(["the cat"])
    with pytest.raises(ConfigError, match="no tokenizer to decode"):
        lm(gpt2, source=None).nll(SAMPLES)


def test_a_vocabulary_too_small_is_refused(gpt2):
    small = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    )
    with pytest.raises(ConfigError, match="vocabulary of 50 tokens and is given token"):
        lm(small).nll(["the cat"])


def test_a_context_too_small_is_refused_or_split_on_request(gpt2):
    with pytest.raises(ConfigError, match="context of 64 tokens and a sample 95: set "):
        lm(gpt2).nll(SAMPLES)
    with pytest.raises(ConfigError, match="choose context=65 between 2 and 64"):
        lm(gpt2, context=65)
    assert lm(gpt2, context=64).nll(SAMPLES).tokens.sum() > 0


@pytest.mark.parametrize(
    "samples,said",
    [
        ([END * 6] * 3, "in 3 samples: they are empty or all EOS"),
        (["", ""], "in 2 samples: they are empty"),
        (torch.zeros(0, 6, dtype=torch.long), "leave nothing to score"),
        (torch.ones(6, 1, dtype=torch.long), "leave nothing to score"),
    ],
)
def test_nothing_to_score_is_said(gpt2, samples, said):
    with pytest.raises(ConfigError) as caught:
        lm(gpt2, context=64).nll(samples)
    assert said in str(caught.value)


def test_nan_is_said(gpt2):
    broken = transformers.GPT2LMHeadModel(gpt2.config).eval()
    torch.nn.init.constant_(broken.transformer.ln_f.weight, float("nan"))
    with pytest.raises(ConfigError, match="score of evaluator=tiny of sample 0 is nan"):
        lm(broken).nll(["the cat"])


def test_a_folder_is_opened_by_name(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path)
    by_byte().save_pretrained(tmp_path)
    name = str(tmp_path)
    opened = evaluators.CausalLM.load(name, source=by_word(), context=64, max_length=1000)
    assert opened.name == name
    expected = lm(gpt2, context=64).nll(SAMPLES)
    torch.testing.assert_close(opened.nll(SAMPLES).nats, expected.nats)
    half = evaluators.CausalLM.load(name, dtype=torch.bfloat16, device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert half.nll(["the cat"]).value == pytest.approx(lm(gpt2).nll(["the cat"]).value, rel=0.1)


def test_what_is_no_evaluator_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="cannot be loaded .*: give the folder"):
        evaluators.CausalLM.load(str(tmp_path))


# Judges ------------------------------------------------------------------------------


def uniform(tokens):
    return torch.full((len(tokens), tokens.shape[1] - 1), math.log(50.0))


def test_a_judge_counts_all_but_the_first_or_the_hosts_way():
    tokens = torch.tensor([[1, 7, 0, 3, 0], [0, 0, 2, 2, 2], [1, 1, 1, 1, 1]])
    plain = evaluators.CallableEvaluator(uniform, "AR", batch_size=2).nll(tokens)
    assert plain.tokens.tolist() == [4, 4, 4]
    hosts = evaluators.CallableEvaluator(uniform, "AR", eos=0, batch_size=2).nll(tokens)
    assert hosts.tokens.tolist() == [3, 3, 4]
    for scores in (plain, hosts):
        assert scores.perplexity == pytest.approx(50)
        estimate = scores.estimate(intervals.perplexity)
        assert estimate == pytest.approx((50, 50, 50))


def test_a_judges_nan_and_nothing_are_said():
    with pytest.raises(ConfigError, match="evaluator=AR finds no token"):
        evaluators.CallableEvaluator(uniform, "AR", eos=0).nll(torch.zeros(2, 4).long())
    broken = evaluators.CallableEvaluator(lambda t: uniform(t) * float("nan"), "AR")
    with pytest.raises(ConfigError, match="2 of 2 samples are not finite"):
        broken.nll(torch.ones(2, 4).long())


def test_nan_where_nothing_counts_does_not_count():
    def judge(tokens):
        return uniform(tokens).where(tokens[:, 1:] != 0, float("nan"))

    tokens = torch.tensor([[0, 0, 2, 2, 2]])
    assert evaluators.CallableEvaluator(judge, "AR", eos=0).nll(tokens).tokens.tolist() == [3]


def test_the_minihosts_ar_model_is_a_judge(compose):
    from mdlm_mcd.evaluation import embedded
    from mdlm_mcd.minihost import algo, dataloader

    config = compose("algo=ar")
    model = algo.AR(config, dataloader.get_tokenizer(config)).eval()
    tokens = torch.randint(0, 250, (5, 16))
    scores = evaluators.CallableEvaluator(embedded.judge(model), "AR", batch_size=2).nll(tokens)
    nats = embedded.judge(model)(tokens).double()
    assert scores.perplexity == pytest.approx(nats.mean().exp().item(), rel=1e-5)
    assert scores.tokens.tolist() == [15] * 5
