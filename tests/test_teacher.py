"""Snapshots, and files of weights read without running their code."""

import collections
import os
import pickle

import pytest
import torch
import torch.nn as nn
from omegaconf import OmegaConf

from mdlm_mcd import teacher
from mdlm_mcd.errors import CheckpointError


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_a_snapshot_is_frozen_in_eval_mode_and_apart_from_the_student():
    student, held = net().train(), teacher.Teacher()
    held.snapshot(student, 0)
    before = {k: v.clone() for k, v in held.backbone.state_dict().items()}
    assert not held.backbone.training and student.training
    assert not any(p.requires_grad for p in held.backbone.parameters())
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    after = held.backbone.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    held.snapshot(student, 1)
    assert held.round == 1 and not held.backbone.training
    for a, b in zip(held.backbone.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad


def test_a_module_does_not_see_its_teacher():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.teacher = net(), teacher.Teacher()

    student = Student()
    student.teacher.snapshot(student.backbone, 0)
    assert all(k.startswith("backbone.") for k in student.state_dict())
    assert len(list(student.parameters())) == 4


def test_state_survives_a_file_that_opens_with_weights_only(tmp_path):
    student, held = net(), teacher.Teacher()
    held.snapshot(student, 3)
    torch.save(held.state_dict(), tmp_path / "t.pt")
    other = teacher.Teacher()
    state = torch.load(tmp_path / "t.pt", weights_only=True)
    other.load_state_dict(state, like=net())
    assert other.round == 3
    for a, b in zip(other.backbone.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)


def lightning_like(model, **extra):
    return {
        "state_dict": {f"backbone.{k}": v for k, v in model.state_dict().items()},
        "ema": {
            "decay": 0.9,
            "num_updates": 5,
            "shadow_params": [p.detach() + 1 for p in model.parameters()],
        },
        "global_step": 17,
        **extra,
    }


def test_weights_are_read_past_pickled_configs_and_tokenizers(tmp_path):
    model = net()
    path = tmp_path / "host.ckpt"
    held = lightning_like(
        model,
        hyper_parameters=collections.OrderedDict(
            config=OmegaConf.create({"a": {"b": [1, 2]}}),
            odd=collections.Counter("aab"),
        ),
    )
    torch.save(held, path)
    weights = teacher.read_weights(str(path))
    assert weights.global_step == 17
    assert weights.state_dict.keys() == held["state_dict"].keys()
    for name, tensor in held["state_dict"].items():
        assert torch.equal(weights.state_dict[name], tensor)
    for a, b in zip(weights.shadow_params, held["ema"]["shadow_params"], strict=True):
        assert torch.equal(a, b)


class Bomb:
    """Unpickled as intended, this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_of_the_file_is_run(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "evil.ckpt"
    torch.save(lightning_like(net(), hyper_parameters=Bomb(str(canary))), path)
    assert teacher.read_weights(str(path)).global_step == 17
    assert not canary.exists()
    # The canary is alive: the plain unpickler sets it off.
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    "content,words",
    [
        (None, ["is no file", "name a checkpoint"]),
        (b"not a checkpoint", ["cannot be read", "truncated"]),
        (pickle.dumps({"state_dict": {}}), ["cannot be read"]),
    ],
)
def test_unreadable_files_are_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        teacher.read_weights(str(path))
    assert str(path) in str(error.value) and "algo.teacher_path" in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("held", [{"weights": 1}, [1, 2], {"state_dict": {}}])
def test_files_without_weights_are_refused(tmp_path, held):
    torch.save(held, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds no `state_dict`"):
        teacher.read_weights(str(tmp_path / "x.ckpt"))


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(lightning_like(net()), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        teacher.read_weights(str(path))


def test_strict_loading_names_the_first_keys():
    weights = net().state_dict()
    weights["extra"] = torch.zeros(1)
    del weights["0.bias"]
    weights["2.weight"] = torch.zeros(5, 4)
    with pytest.raises(CheckpointError) as error:
        teacher.load_strictly(net(), weights, "algo.teacher_path=a.ckpt")
    for words in ("a.ckpt", "lacks 0.bias", "no place for extra", "2.weight (5, 4)"):
        assert words in str(error.value)


def test_an_average_that_does_not_fit_is_refused():
    model = net()
    shadow = [p.detach() for p in model.parameters()]
    with pytest.raises(CheckpointError, match="EMA of 3 tensors for a model of 4"):
        teacher.load_average(model.named_parameters(), shadow[:3], "a.ckpt")
    with pytest.raises(CheckpointError, match="2.bias"):
        teacher.load_average(
            model.named_parameters(), [*shadow[:3], torch.zeros(9)], "a.ckpt"
        )
