"""`data=textpairs`, and the host's own models on rows with a context."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from texts import WORDS, config_of, word_tokenizer

from mdlm_mcd.commands import main as commands
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, dataloader
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.models import context

PAIRS = [(" ".join(WORDS[: 1 + i % 6]), " ".join(WORDS[i % 9 : 10 + i % 5])) for i in range(80)]


def write(path, pairs):
    lines = [json.dumps({"prompt": p, "completion": c, "id": 7}) for p, c in pairs]
    path.write_text("\ufeff" + "\n\n".join(lines))
    return str(path)


@pytest.fixture
def loaded(tmp_path):
    """`loaded(**data)`: its config, tokenizer and loaders."""

    def build(**data):
        name = word_tokenizer(tmp_path / "words", bos_token="<s>", eos_token="</s>")
        given = {"files": [write(tmp_path / "a.jsonl", PAIRS)], "tokenizer_name_or_path": name}
        config = config_of("textpairs", tmp_path / "cache", **given | data)
        tokenizer = dataloader.get_tokenizer(config)
        return config, tokenizer, dataloader.get_dataloaders(config, tokenizer)

    return build


def test_rows_are_pairs_with_their_prompts_marked(loaded, caplog):
    config, tokenizer, loaders = loaded()
    every = []
    for loader, mode in zip(loaders, ("train", "valid"), strict=True):
        pairs = corpus.documents(config.data, mode)
        split = [(p.split(), c.split()) for p, c in pairs]
        fit = [(p, c) for p, c in split if len(p) + len(c) + 2 <= 16]
        assert len(loader.dataset) == len(fit) > 0
        for row, (prompt, completion) in zip(loader.dataset, fit, strict=True):
            words = ["<s>", *prompt, *completion, *["</s>"] * 16][:16]
            assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == words
            assert row["context_mask"].tolist() == [i <= len(prompt) for i in range(16)]
            assert (row["attention_mask"] == 1).all()
        every += pairs
        dropped = f"{len(pairs) - len(fit)} of {len(pairs)} pairs are longer than model.length=16"
        assert len(fit) == len(pairs) or dropped in caplog.text
    assert sorted(every) == sorted(PAIRS) and "longer than" in caplog.text
    batch = next(iter(loaders[0]))
    assert batch["context_mask"].dtype == torch.bool and batch["context_mask"].shape == (4, 16)


def test_a_run_knows_its_pairs_again_by_their_borders_too(loaded, tmp_path):
    config, _, (train, _) = loaded(valid_files=[write(tmp_path / "b.jsonl", PAIRS[:10])])
    assert corpus.documents(config.data, "valid") == PAIRS[:10]
    assert not set(PAIRS[:10]) & set(corpus.documents(config.data, "train"))
    before = dataloader.with_digest(config, train).data.rows_sha256
    train.dataset.given[0] += 1
    assert dataloader.with_digest(config, train).data.rows_sha256 != before


@pytest.mark.parametrize("prompt", ["{i}", "", "the same"])
def test_the_completions_of_a_prompt_stay_together(prompt):
    pairs = [(prompt.format(i=i), f"{i}-{j}") for i in range(60) for j in range(4)]
    train, valid = corpus.split(pairs)
    assert sorted(train + valid) == sorted(pairs) and 3 < len(valid) < 40
    shared = {p for p, _ in train} & {p for p, _ in valid}
    assert shared == (set() if "{" in prompt else {prompt})  # none to tell pairs apart by
    bare = [("", f"{i}") for i in range(60)]
    assert {p for p, _ in corpus.split([*pairs, *bare])[1]} & {""}


LINES = ["{", "3", '["a", "b"]', '{"prompt": "a"}', '{"prompt": "a", "completion": null}']
LINES.append(r'{"prompt": "a", "completion": "b\ud83d"}')  # half a character


def test_a_line_that_is_no_pair(tmp_path):
    good = json.dumps({"prompt": "", "completion": "\u2028"})
    for line in LINES:
        (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n")
        words = r"^data\.files: line 2 of .*a\.jsonl is no pair of texts \(.+\): write it like"
        with pytest.raises(ConfigError, match=words):
            corpus.pairs("files", str(tmp_path / "a.jsonl"))


# The host's models --------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_labels_say_what_is_given(places):
    """By -100, as in transformers' collators; not at padding, where they have it too."""
    labelled, padded = (torch.tensor([column]) for column in zip(*places, strict=True))
    ids = torch.arange(len(places))[None]
    batch = {"input_ids": ids, "attention_mask": (~padded).long()}
    found = context.marked(batch | {"labels": ids.where(labelled, -100)})
    assert found.keys() == {*batch, "context_mask"} and context.marked(found) is found
    assert torch.equal(context.of(found), ~labelled & ~padded)
    # A mask of the batch's own is no less given, and without padding every token counts.
    both = context.marked(batch | {"labels": ids.where(labelled, -100), "context_mask": padded})
    assert torch.equal(context.of(both), ~labelled | padded)
    whole = context.marked({"input_ids": ids, "labels": ids.where(labelled, -100)})
    assert torch.equal(context.of(whole), ~labelled)
    classes = batch | {"labels": torch.zeros(1)}  # a class a row
    assert context.marked(classes) is classes and context.of(classes) is None


def test_labels_of_a_collator_that_pads_with_eos_are_warned_of(caplog):
    """transformers' writes -100 at each EOS then, in the middle of the text, too."""
    ids = torch.tensor([[0, 5, 6, 0, 7, 8]])
    for none, warned in ([1, 0, 0, 0, 0, 0], 0), ([1, 1, 1, 0, 0, 0], 0), ([1, 0, 0, 1, 0, 0], 1):
        labels = ids.masked_fill(torch.tensor([none]).bool(), -100)
        context.marked({"input_ids": ids, "labels": labels})
        assert caplog.text.count("-100 at the token 0 alone") == warned


@pytest.mark.parametrize("name", ["mdlm", "duo_base", "ar"])
@pytest.mark.parametrize("train_mode", [True, False])
def test_the_loss_of_rows_with_a_context(compose, monkeypatch, name, train_mode):
    """Per free token, of what `nll` says of them; the given ones are as they are in x_t."""
    config = compose(f"algo={name}")
    model = minihost.MODELS[name](config, dataloader.get_tokenizer(config)).eval().double()
    for p in model.backbone.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x0, mask = torch.randint(0, 250, (6, 16)), torch.ones(6, 16, dtype=torch.long)
    mask[2, 12:] = 0
    given = torch.arange(16) < torch.tensor([0, 1, 4, 9, 15, 15])[:, None]
    batch = {"input_ids": x0, "attention_mask": mask, "context_mask": given}
    counts = mask.bool() & ~given
    if name == "ar":
        counts = counts[:, 1:]
        log_p = model(x0[:, :-1], None).gather(-1, x0[:, 1:, None]).squeeze(-1)
        expected = -log_p[counts].sum() / counts.sum()
    else:
        t = torch.linspace(0.3, 0.9, 6).double()
        monkeypatch.setattr(model, "_sample_t", lambda *_: t)
        torch.manual_seed(1)
        dalpha_t, alpha_t = (a[:, None] for a in model.noise(t))
        xt = torch.where(given, x0, model.q_xt(x0, alpha_t))
        assert ((xt != x0).sum(-1)[:4] > 0).all()
        nll = model.nll_per_token(model(xt, -alpha_t.log()), xt, x0, alpha_t, dalpha_t)
        expected = nll[counts].sum() / counts.sum()
    torch.manual_seed(1)
    loss = model._of_batch(batch, 0, train_mode=train_mode)
    torch.testing.assert_close(loss.loss, expected)
    assert loss.num_tokens == counts.sum()


@pytest.mark.parametrize("name", ["mdlm", "duo_base", "ar"])
def test_a_run_on_pairs(compose, tmp_path, capsys, name):
    """From training to a completion of a prompt."""
    given = ("data=textpairs", f"data.files=[{write(tmp_path / 'a.jsonl', PAIRS)}]")
    given += ("trainer.max_steps=30", "trainer.val_check_interval=30", "model.length=64")
    trained = minihost.run(compose(*given, f"algo={name}", "optim.lr=1e-2"))
    assert trained["val/nll"] < 4.5  # knowing nothing: 5.7
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    status = commands.main(["sample", path, "--prompt", "the cat", "--count", "2"])
    printed = capsys.readouterr()
    fits = name == "mdlm"
    assert status == (0 if fits else 1) and "Traceback" not in printed.err
    assert printed.out.count("\nthe cat") == 2 * fits
