"""Snapshots of the student."""

import copy

import pytest
import torch
import torch.nn as nn

from mdlm_mcd.distillers import teacher
from mdlm_mcd.distillers.teacher import checksum


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_checksum_tells_any_bit(dtype):
    """A changed sign of zero, two values exchanged, one unit in the last place."""
    module = torch.nn.Linear(5, 3).to(dtype)
    module.bias.data.zero_()
    first = checksum(module)
    assert checksum(copy.deepcopy(module)) == first

    def change(edit):
        other = copy.deepcopy(module)
        with torch.no_grad():
            edit(other)
        return checksum(other)

    def swap(m):
        m.weight[0, 0], m.weight[2, 4] = m.weight[2, 4].clone(), m.weight[0, 0].clone()

    def nudge(m):
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        m.weight.view(whole[m.weight.element_size()])[1, 2] += 1

    assert change(swap) != first
    assert change(nudge) != first
    assert change(lambda m: m.bias.neg_()) != first
