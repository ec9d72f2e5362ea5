"""What makes two runs one: all that changes a result, however it is written."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.errors import CheckpointError, ConfigError

RUN = """
    mode=train seed=1 T=0 algo.name=mcd algo.loss=hybrid algo.u_step=null algo.rounds=2
    algo.delta0=1/512 algo.teacher_path=t.ckpt algo.guard=stop algo.head_chunk=1024
    model.length=16 model.hidden_size=32 data.files=[a.txt] data.cache_dir=x
    data.data_files.train=a.jsonl noise.eps=0.001 optim.lr=6e-5 training.ema=0.999
    lr_scheduler.num_warmup_steps=5 loader.global_batch_size=8 loader.batch_size=8
    trainer.precision=bf16 trainer.gradient_clip_val=1.0 trainer.devices=1 sampling.steps=8
""".split()
OTHER = """
    seed=2 T=1000 algo.name=sdtt algo.u_step=1/8 algo.rounds=3 algo.delta0=1/256
    model.length=32 data.files=[/text/ba.txt] data.data_files.train=b.jsonl noise.eps=1e-4
    optim.lr='6e-4' lr_scheduler.num_warmup_steps=0 training.ema=0.9
    loader.global_batch_size=16 trainer.precision=32-true trainer.gradient_clip_val=null
    trainer.gradient_clip_algorithm=value
""".split()
WRITTEN_OTHERWISE = """
    algo.delta0=0.001953125 optim.lr='6e-5' noise.eps=1/1000 trainer.precision=bf16-mixed
    trainer.gradient_clip_algorithm=null model.hidden_size=32.0
""".split()
OF_NO_EFFECT = """
    mode=ppl_eval algo.guard=off algo.head_chunk=1 algo.teacher_path=elsewhere.ckpt
    data.cache_dir=y loader.batch_size=4 trainer.devices=2 trainer.max_steps=9
    sampling.steps=1 algo.a_newer_key=1 optim.a_newer_key=1 data.rows_sha256=abc
""".split()


def config(*overrides):
    return OmegaConf.to_container(OmegaConf.from_dotlist([*RUN, *overrides]))


def check(was, now, free=()):
    identity.check({"hyper_parameters": {"config": was}}, now, "x.ckpt", free)


@pytest.mark.parametrize("override", OTHER)
def test_what_changes_the_result(override):
    key, _ = override.split("=")
    words = f" with {key}=.* this one has {key}=.* hydra.run.dir"
    with pytest.raises(CheckpointError, match=words):
        check(config(), config(override))
    check(config(), config(override), free={key})


@pytest.mark.parametrize("override", [*WRITTEN_OTHERWISE, *OF_NO_EFFECT])
def test_what_does_not(override):
    check(config(), config(override))
    check(config(override), config())


def test_an_average_that_is_no_longer_kept_and_paths_that_were_relative_once():
    check(config(), config("data.files=[/text/a.txt]"))
    check(config(), config("training.ema=0"))
    with pytest.raises(CheckpointError, match="training.ema=0, "):
        check(config("training.ema=0"), config())


def test_the_rows_decide_where_both_know_theirs():
    was = config("data.rows_sha256=abc")
    check(was, config("data.rows_sha256=abc", "data.files=[elsewhere.txt]"))
    with pytest.raises(CheckpointError, match="with training rows of SHA-256 abc, and this"):
        check(was, config("data.rows_sha256=def"))


def test_tokenizers_are_known_by_their_tokens():
    def of(**vocab):
        return SimpleNamespace(get_vocab=lambda: vocab, name_or_path="")

    digest = identity.tokenizer_sha256(of(a=0, b=1))
    noted = {"data": {"tokenizer_sha256": digest}}
    assert identity.check_tokenizer(noted, of(b=1, a=0), "x")
    assert not any(identity.check_tokenizer(c, None, "x") for c in ({}, {"data": {}}, {"data": 1}))
    for other in (of(a=1, b=0), of(a=0), of(a=0, b=1, c=2)):
        words = f"^x learned .* SHA-256 {digest[:11]}.*tokenizer_name_or_path=bpe has"
        with pytest.raises(ConfigError, match=words):
            identity.check_tokenizer(noted, other, "x")


@pytest.mark.parametrize(
    "was",
    [
        None,
        [1],
        {"algo": 5, "trainer": "a", "loader": None},
        {"optim": {"lr": torch.ones(2)}},
    ],
)
def test_what_a_file_does_not_say_is_not_compared(was):
    mine = config()
    del mine["optim"]
    check(was, mine)
    for content in ({}, {"hyper_parameters": 3}):
        identity.check(content, mine, "x.ckpt")


def test_digests_know_names_kinds_shapes_and_bytes():
    one = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    same = torch.arange(6.0)
    others = [{"a": x, "b": one["b"]} for x in (same.view(2, 3), same.double(), same.flip(0))]
    for other in (*others, {"a": same, "c": one["b"]}):
        assert identity.sha256(one) != identity.sha256(other)
    again = {"b": torch.tensor(3), "a": torch.arange(12.0).view(6, 2).t()[0] / 2}
    assert identity.sha256(one) == identity.sha256(again)
