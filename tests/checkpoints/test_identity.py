"""What makes two runs one: all that changes a result, however it is written."""

import copy

import pytest
import torch

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.errors import CheckpointError

CONFIG = {
    "mode": "train",
    "seed": 1,
    "T": 0,
    "algo": {
        "name": "mcd",
        "loss": "hybrid",
        "u_step": None,
        "rounds": 2,
        "delta0": "1/512",
        "teacher_path": "t.ckpt",
        "guard": "stop",
        "head_chunk": 1024,
    },
    "model": {"length": 16, "hidden_size": 32},
    "data": {"files": ["a.txt"], "cache_dir": "x", "data_files": {"train": "a.jsonl"}},
    "noise": {"eps": 1e-3},
    "optim": {"lr": 6e-5},
    "lr_scheduler": {"num_warmup_steps": 5},
    "training": {"ema": 0.999, "finetune_path": ""},
    "loader": {"global_batch_size": 8, "batch_size": 8},
    "trainer": {"precision": "bf16", "gradient_clip_val": 1.0, "devices": 1},
    "sampling": {"steps": 8},
}


def changed(key, value):
    config = copy.deepcopy(CONFIG)
    *sections, last = key.split(".")
    found = config
    for name in sections:
        found = found.setdefault(name, {})
    found[last] = value
    return config


OTHER = {
    "seed": 2,
    "T": 1000,
    "algo.name": "sdtt",
    "algo.u_step": "1/8",
    "algo.rounds": 3,
    "algo.delta0": "1/256",
    "model.length": 32,
    "data.files": ["b.txt"],
    "data.data_files.train": "b.jsonl",
    "noise.eps": 1e-4,
    "optim.lr": "6e-4",
    "lr_scheduler.num_warmup_steps": 0,
    "training.ema": 0.9,
    "training.finetune_path": "t.ckpt",
    "loader.global_batch_size": 16,
    "trainer.precision": "32-true",
    "trainer.gradient_clip_val": None,
    "trainer.gradient_clip_algorithm": "value",
}


@pytest.mark.parametrize("key", OTHER)
def test_what_changes_the_result(key):
    ((found, was, now),) = identity.differences(CONFIG, changed(key, OTHER[key]))
    assert found == key and was != now
    content = {"hyper_parameters": {"config": CONFIG}}
    with pytest.raises(CheckpointError) as error:
        identity.check(content, changed(key, OTHER[key]), "x.ckpt")
    message = str(error.value)
    for words in (f" with {key}=", f"this one has {key}=", "hydra.run.dir"):
        assert words in message
    assert not identity.differences(CONFIG, changed(key, OTHER[key]), free={key})


SAME = {
    # Written otherwise.
    "algo.delta0": 0.001953125,
    "optim.lr": "6e-5",
    "noise.eps": "1/1000",
    "trainer.precision": "bf16-mixed",
    "trainer.gradient_clip_algorithm": None,
    "model.hidden_size": 32.0,
    # Of no effect on the result.
    "mode": "ppl_eval",
    "algo.guard": "off",
    "algo.head_chunk": 1,
    "algo.teacher_path": "elsewhere.ckpt",
    "data.cache_dir": "y",
    "loader.batch_size": 4,
    "trainer.devices": 2,
    "trainer.max_steps": 9,
    "sampling.steps": 1,
    "training.ema": 0,  # none from here on
    # Only one of the two has it.
    "algo.a_newer_key": 1,
    "optim.a_newer_key": 1,
    "data.rows_sha256": "abc",
}


@pytest.mark.parametrize("key", SAME)
def test_what_does_not(key):
    assert not identity.differences(CONFIG, changed(key, SAME[key]))
    if key != "training.ema":
        assert not identity.differences(changed(key, SAME[key]), CONFIG)


def test_the_rows_decide_where_both_know_theirs():
    was = changed("data.rows_sha256", "abc")
    moved = changed("data.rows_sha256", "abc")
    moved["data"]["files"] = ["elsewhere.txt"]
    assert not identity.differences(was, moved)
    other = identity.differences(was, changed("data.rows_sha256", "def"))
    assert [key for key, *_ in other] == ["data.rows_sha256"]


def test_the_first_few_are_named():
    mine = copy.deepcopy(CONFIG)
    mine["algo"] |= {"name": "sdtt", "loss": "ce", "rounds": 3, "delta0": 0.1}
    mine["seed"] = 9
    with pytest.raises(CheckpointError) as error:
        identity.check({"hyper_parameters": {"config": CONFIG}}, mine, "x.ckpt")
    message = str(error.value)
    assert "algo.name=mcd, algo.loss=hybrid, algo.rounds=2, algo.delta0=1/512" in message
    assert "algo.delta0=0.1 (1 more differ" in message


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"hyper_parameters": 3},
        {"hyper_parameters": {"config": [1]}},
        {"hyper_parameters": {"config": {"algo": 5, "trainer": "a", "loader": None}}},
        {"hyper_parameters": {"config": {"optim": {"lr": torch.ones(2)}}}},
    ],
)
def test_what_a_file_does_not_say_is_not_compared(content):
    mine = copy.deepcopy(CONFIG)
    del mine["optim"]
    identity.check(content, mine, "x.ckpt")


def test_digests_know_names_kinds_shapes_and_bytes():
    one = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    for other in (
        {"a": torch.arange(6.0), "c": torch.tensor(3)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)},
        {"a": torch.arange(6.0).double(), "b": torch.tensor(3)},
        {"a": torch.arange(6.0).flip(0), "b": torch.tensor(3)},
    ):
        assert identity.sha256(one) != identity.sha256(other)
    again = {"b": torch.tensor(3), "a": torch.arange(12.0).view(6, 2).t()[0] / 2}
    assert identity.sha256(one) == identity.sha256(again)
