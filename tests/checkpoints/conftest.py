"""Both ways to open a pickle."""

import pytest
import torch

NAME = "get_unsafe_globals_in_checkpoint"  # torch has it since 2.6


@pytest.fixture(params=["torch's", "before 2.6"])
def each_reader(request, monkeypatch):
    if request.param == "before 2.6":
        monkeypatch.delattr(torch.serialization, NAME, raising=False)
    elif not hasattr(torch.serialization, NAME):
        pytest.skip("torch before 2.6")
