"""Snapshots of the student."""

import torch
import torch.nn as nn

from mdlm_mcd.distillers import teacher


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def same(a, b):
    return all(map(torch.equal, a.parameters(), b.parameters()))


def test_a_snapshot_is_frozen_in_eval_mode_and_apart_from_the_student():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.teacher = net(), teacher.Teacher()

    student = Student().train()
    own = student.teacher
    for round_ in range(2):
        own.snapshot(student.backbone, round_)
        assert own.round == round_ and not own.backbone.training and student.backbone.training
        assert same(own.backbone, student.backbone)
        assert not any(p.requires_grad for p in own.backbone.parameters())
        with torch.no_grad():
            for p in student.parameters():
                p.add_(1.0)
        assert not same(own.backbone, student.backbone)
    # The module does not see it.
    assert all(k.startswith("backbone.") for k in student.state_dict())
    assert len(list(student.parameters())) == 4


def test_state_survives_a_file_that_opens_with_weights_only(tmp_path):
    student, first, other = net(), teacher.Teacher(), teacher.Teacher()
    first.snapshot(student, 3)
    torch.save(first.state_dict(), tmp_path / "t.pt")
    other.load_state_dict(torch.load(tmp_path / "t.pt", weights_only=True), like=net())
    assert other.round == 3 and same(other.backbone, student)
