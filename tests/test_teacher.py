"""Snapshots of the student."""

import torch
import torch.nn as nn

from mdlm_mcd import teacher


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
