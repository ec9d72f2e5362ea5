"""Pickles in torch files: what they name is neither imported nor called."""

import collections
import functools
import io
import logging
import os
import pathlib
import struct
import sys
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from torch_files import REBUILD, Call, Stored, WithState, archive, checkpoint, members, tensor

from mdlm_mcd.checkpoints import unpickling, weights
from mdlm_mcd.errors import CheckpointError

try:
    from lightning.fabric.utilities.data import AttributeDict
except ImportError:
    from lightning.pytorch.utilities.parsing import AttributeDict


@pytest.fixture
def read(tmp_path):
    """`read(data)`: the weights in a file of these bytes."""

    def read(data):
        (tmp_path / "x.ckpt").write_bytes(data)
        return weights.read_weights(str(tmp_path / "x.ckpt"))

    return read


# What hosts write -----------------------------------------------------------------

CONFIG = {"model": {"length": 8, "name": "x", "sizes": [1, {"a": 2.5}]}, "T": 0}
CONFIG["same"] = "${model.length}"


@pytest.mark.parametrize("hyper", [dict, AttributeDict])
def test_configs_are_read_and_other_objects_left_out(tmp_path, caplog, hyper):
    """A tokenizer's class that is there when a file is written and never again."""
    path, module = str(tmp_path / "host.ckpt"), types.ModuleType("tokenization_gone")
    module.Gone = type("Gone", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    tokenizer = module.Gone()
    tokenizer.added = {"[PAD]": 1}
    objects = hyper(
        config=OmegaConf.create(CONFIG),
        tokenizer=[tokenizer, Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))],
        predictor=functools.partial(os.path.join, "a", b="c"),
        folder=pathlib.Path("x"),
        odd=[collections.Counter("aab"), collections.deque([1, 2]), collections.UserList([1])],
    )
    state_dict = collections.OrderedDict(w=torch.arange(3.0))
    content = {"state_dict": state_dict, "global_step": 17, "hyper_parameters": objects}
    torch.save(content, path)
    del sys.modules[module.__name__]
    caplog.set_level(logging.INFO, "mdlm_mcd")
    found = weights.read_weights(path)
    assert "omegaconf.dictconfig.DictConfig" in caplog.text and "gone.Gone" in caplog.text
    assert found.config == CONFIG and found.global_step == 17 and not found.is_final
    assert torch.equal(found.state_dict["w"], torch.arange(3.0))
    with pytest.raises(ModuleNotFoundError):  # which the plain unpickler needs
        torch.load(path, weights_only=False)


def test_plain_values_survive(tmp_path):
    values = {
        "set": {1, 2},
        "frozen": frozenset("ab"),
        "bytes": b"\x00\xff",
        "none": b"",
        "complex": 1j,
        "counts": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
        "size": torch.Size([2]),
        "rate": np.float64(0.1),
        "int": np.int32(-3),
        "dtype": torch.bfloat16,
        "keys": {0: 1, 1.5: 3, ("a", "b"): 4, None: 6, b"b": 7},
    }
    torch.save(values, tmp_path / "x.pt")
    found, left_out = unpickling.load(str(tmp_path / "x.pt"))
    assert found == values and type(found["rate"]) is np.float64 and left_out == {"builtins.list"}


def test_tensors_are_mapped_from_the_file(read):
    """Memory that a file of 500 MB takes is then the model's alone."""
    data = checkpoint({"w": tensor(size=(2, 2), stride=(1, 2))}, struct.pack("<4f", 1, 2, 3, 4))
    for _ in range(2):
        found = read(data).state_dict["w"]
        assert torch.equal(found, torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
        found[0, 0] = 5.0  # of this process alone


# What would do harm ---------------------------------------------------------------


def test_the_canary_is_alive(read, tmp_path, monkeypatch):
    """Opened as torch opened such files for years, the same bytes do run."""
    monkeypatch.chdir(tmp_path)
    data = checkpoint({"w": tensor(), "evil": Call(eval, "open('canary', 'w').close()")})
    assert set(read(data).state_dict) == {"w"} and os.listdir(tmp_path) == ["x.ckpt"]
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "canary").exists()


def on(target) -> bytes:
    """A pickle that sets an attribute of a class or function, as the operation BUILD can."""
    name = f"{target.__module__}\n{target.__name__}".encode()
    return b"\x80\x02c" + name + b"\nN}X\x06\x00\x00\x00canaryK\x01s\x86b."


def nested(copies, depth):
    config = functools.reduce(lambda inner, _: [inner] * copies, range(depth), [0])
    return {"state_dict": {"w": tensor()}, "hyper_parameters": {"config": config}}


HARM = {
    "storage": {"w": tensor(Stored(1 << 40), size=(1 << 40,))},
    "past the end": {"w": tensor(Stored(200), size=(200,))},
    "size": {"w": tensor(size=(1 << 20,))},
    "offset": {"w": tensor(offset=1 << 30)},
    "negative offset": {"w": tensor(offset=-4)},
    "negative stride": {"w": tensor(stride=(-1,))},
    "negative count": {"w": tensor(Stored(-4))},
    "allocated": {"w": Call(torch.FloatTensor, 1 << 44)},
    "bytes": {"w": Call(bytes, 1 << 50)},
    "no such record": {"w": tensor(Stored(key="7"))},
    "scalar of objects": {"w": Call(np.float64(1).__reduce__()[0], np.dtype("O"), b"\0" * 8)},
    "repeats itself": nested(10, 40),
    "nested beyond reason": nested(1, 300),
    "sets the state of a": on(torch.Tensor),
    "torch.UntypedStorage": on(torch.UntypedStorage),
    "torch._utils": on(REBUILD),
}


@pytest.mark.parametrize("what", HARM)
def test_harm_is_refused(read, what):
    """Nothing is larger than the file, and torch stays as it is."""
    value = HARM[what] if isinstance(HARM[what], bytes) else {**HARM[what], "v": tensor()}
    with pytest.raises(CheckpointError):
        read(checkpoint(value))
    assert not any(hasattr(x, "canary") for x in (torch.Tensor, torch.UntypedStorage, REBUILD))


EMPTY = Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40,), (1,), False)
REPEATED = tensor(size=(1 << 20, 1 << 20), stride=(0, 0))


@pytest.mark.parametrize("odd", [EMPTY, REPEATED, 5, [tensor()]])
def test_what_has_no_numbers_in_the_file_is_no_weights(read, odd):
    content = {"state_dict": {"w": odd, "v": tensor()}, "ema": {"shadow_params": [tensor(), odd]}}
    found = read(checkpoint(content))
    assert set(found.state_dict) == {"v"} and found.shadow_params is None


def test_attributes_that_a_file_gives_are_not_taken(read):
    names = dict.fromkeys(("items", "get", "keys", "values", "__iter__"), 5)
    named = WithState(collections.OrderedDict, [("w", tensor())], names)
    args = (Stored(), 0, (4,), (1,), False, collections.OrderedDict())
    state = {"numel": 3, "detach": 4, "isfinite": 5}
    typed = Call(torch._tensor._rebuild_from_type_v2, REBUILD, torch.Tensor, args, state)
    parameter = Call(torch._utils._rebuild_parameter_with_state, tensor(), True, None, state)
    whole = {"state_dict": named, "hyper_parameters": {"config": named}, "mdlm_mcd": named}
    for content in (whole, {"w": typed}, {"w": parameter}):
        found = read(checkpoint(content)).state_dict["w"]
        assert found.numel() == 4 and found.isfinite().all()


# Files of another kind ------------------------------------------------------------


def old_torch():
    out = io.BytesIO()
    torch.save({"w": torch.ones(1)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


WHOLE = checkpoint({"w": tensor()}, b"abcdefghijklmnop")


@pytest.mark.parametrize(
    "data,words",
    [
        (old_torch(), "no whole file of torch 1.6 or newer"),
        (b"", "no whole file"),
        (WHOLE[:-200], "no whole file.*truncated"),
        (checkpoint({"w": tensor()}, compress=True), "torch.save compresses nothing"),
        (archive({**members(WHOLE), "x/constants.pkl": b"."}), "it is a TorchScript program"),
        (WHOLE.replace(b"abc", b"abd"), "the checksum of x/data/0 in it is wrong"),
        (archive({"y/a": b"."}), "cannot be read as a PyTorch checkpoint"),
    ],
)
def test_files_of_another_kind_are_refused(read, data, words):
    with pytest.raises(CheckpointError, match=words) as refused:
        read(data)
    assert "\n" not in str(refused.value) and "algo.teacher_path" in str(refused.value)
