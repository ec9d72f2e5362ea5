"""Every id that a model reads is one of its vocabulary, and not its mask."""

import pytest
import torch
from texts import WORDS, config_of, tiny_gpt2, word_tokenizer

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import candidates, embedded
from mdlm_mcd.minihost import dataloader, metrics
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.models import vocabulary

ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}


def made(folder, vocab=None, added=(), **specials):
    """A word-level tokenizer, opened as the host opens it."""
    vocab = vocab or {w: i for i, w in enumerate([*ENDS.values(), *WORDS])}
    word_tokenizer(folder, vocab, added, **ENDS | specials)
    return dataloader.get_tokenizer(config(folder, []))


def config(name, files, **keys):
    keys = {"files": files, "valid_files": files, "cache_dir": "", "length": 6, **keys}
    return config_of("textfile", tokenizer_name_or_path=str(name), text_key="text", **keys)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return [str(path)]


# The place of the mask ----------------------------------------------------------------


def test_gpt2s_vocabulary_is_the_released_one(tmp_path):
    """As in mdlm-owt (50,258, mask 50,257) and Duo's uniform models (with a [PAD])."""
    vocab = {str(i): i for i in range(50_256)} | {"<|endoftext|>": 50_256}
    end = "<|endoftext|>"
    tokenizer = made(tmp_path, vocab, bos_token=end, eos_token=end, unk_token=end)
    assert vocabulary.masked(tokenizer) == (50_258, 50_257)
    assert vocabulary.uniform(tokenizer) == 50_258


def test_a_models_own_size_decides_between_the_rules(tmp_path):
    """The public hosts count no added tokens, as the [PAD] that they add."""
    tokenizer = made(tmp_path, pad_token="[PAD]")
    (count,) = {tokenizer.vocab_size, len(tokenizer) - 1}
    assert vocabulary.masked(tokenizer) == (count + 2, count + 1)
    assert vocabulary.masked(tokenizer, count + 2) == (count + 2, count + 1)
    assert vocabulary.masked(tokenizer, count + 1) == (count + 1, count)
    assert vocabulary.masked(tokenizer, 7) == (count + 2, count + 1)
    tokenizer = made(tmp_path, mask_token="[MASK]")
    assert vocabulary.masked(tokenizer, count + 1) == (count + 1, count)
    with pytest.raises(ConfigError, match="id 21, which is not one of the model's 21"):
        vocabulary.masked(tokenizer, count)


# Rows ---------------------------------------------------------------------------------

TOKENIZERS = {
    "plain": {},
    "pad": {"pad_token": "[PAD]"},
    "mask": {"mask_token": "[MASK]"},
    "added": {"added": ["cat dawn"]},
    "mask is a word": {"mask_token": "cat"},
    "gaps": {"vocab": {w: 2 * i for i, w in enumerate([*ENDS.values(), *WORDS])}},
}
REFUSED = {
    ("mask is a word", "subs"): "the model's mask",
    ("gaps", "mean"): "not one of the model's 22",
}


@pytest.mark.parametrize("process", ["subs", "mean"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_rows_are_refused_or_fit_the_model(tmp_path, kind, process):
    tokenizer = made(tmp_path, **TOKENIZERS[kind])
    files = write(tmp_path / "text.txt", "\n\n\n".join([f"cat {' '.join(WORDS[::-1])}"] * 3))
    settings = config(tmp_path, files, algo=process)
    if why := REFUSED.get((kind, process)):
        with pytest.raises(ConfigError, match=rf"^data\.valid=textfile .*, which is {why}"):
            dataloader.get_dataset(settings, tokenizer, "valid")
        return
    ids = dataloader.get_dataset(settings, tokenizer, "valid").tokens
    masked = process == "subs"
    size, mask = vocabulary.masked(tokenizer) if masked else (vocabulary.uniform(tokenizer), None)
    assert 0 <= ids.min() and ids.max() < size and mask not in ids.flatten().tolist()


def test_held_out_text_of_a_sweep(compose, tmp_path):
    """The model's own vocabulary and mask are what counts, and added tokens are learnt."""
    made(tmp_path / "t", added=["cat sat"], mask_token="[MASK]", eos_token="<end>")
    minihost.run(compose(f"data.tokenizer_name_or_path={tmp_path / 't'}", "trainer.max_steps=1"))
    source = candidates.Source.parse(str(tmp_path / "checkpoints" / "last.ckpt"))
    model = candidates.open_model(source)
    fine, bad = (
        write(tmp_path / f"{i}.txt", "\n\n\n".join([text] * 30))
        for i, text in enumerate(["a mat and a cat", "a [MASK] and a cat"])
    )
    assert candidates.held_out(source, model, 8, fine).shape[1] == 16
    with pytest.raises(ConfigError, match=r"--corpus: .* holds token .*\[MASK\]"):
        candidates.held_out(source, model, 8, bad)


# Batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("mask, size", [(300, 301), (None, 300)])
def test_ids_that_no_model_can_be_trained_on(compose, mask, size):
    tokenizer = dataloader.get_tokenizer(compose())
    ids, valid = torch.randint(3, 250, (2, 4)), torch.ones(2, 4)
    for index in (-1, size, 10**6, *([] if mask is None else [mask])):
        ids[1, 2] = index
        why = "the model's mask" if index == mask else f"not one of the model's {size}"
        with pytest.raises(ConfigError, match=rf"^X holds token {index} \(.*\), which is {why}"):
            vocabulary.check_ids(ids, size, mask, "X", tokenizer)
        valid[1, 2] = 0  # the hosts' padding may be any id
        vocabulary.check_ids(ids, size, mask, "X", tokenizer, valid)


# Evaluators ---------------------------------------------------------------------------


@pytest.fixture
def judge(tmp_path):
    """A causal LM of 16 tokens at most that lacks its tokenizer's last words."""
    tiny_gpt2(tmp_path / "judge", len(made(tmp_path / "judge")) - 2)
    return str(tmp_path / "judge")


@pytest.mark.parametrize(
    "samples, words",
    [
        (["the cat", "a house at dawn"], "has a vocabulary of 19 tokens and is given"),
        (["the cat sat " * 9], "has a context of 16 tokens and a sample 20: choose"),
        ([None], "cannot encode the samples"),
    ],
)
def test_the_hosts_evaluator_cannot_read_the_samples(judge, samples, words):
    measured = metrics.Metrics(judge)
    measured.record_generative_perplexity(["the cat sat"], 20)
    with pytest.raises(ConfigError, match=f"eval.gen_ppl_eval_model_.*judge {words}"):
        measured.record_generative_perplexity(samples, 20)


def test_the_ar_evaluator_reads_its_own_vocabulary(compose):
    settings = compose("algo=ar")
    tokenizer = dataloader.get_tokenizer(settings)
    model = minihost.MODELS["ar"](settings, tokenizer).eval()
    how = tokenizer, model.mask_index, model.vocab_size, 16
    nll = embedded.Judge(model.backbone, *how).nll
    ids = torch.randint(3, 250, (2, 16))
    assert nll(ids).shape == (2, 15)
    for index in (300, 301, -1):  # the mask, and what is none
        ids[1, 3] = index
        with pytest.raises(ConfigError, match=f"A sample holds token {index} "):
            nll(ids)
