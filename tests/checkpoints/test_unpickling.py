"""Pickles in torch files: what they name is neither imported nor called."""

import collections
import functools
import io
import logging
import os
import pathlib
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from torch_files import Call, Stored, archive, checkpoint, records, tensor, with_config

from mdlm_mcd.checkpoints import unpickling, weights
from mdlm_mcd.errors import CheckpointError

try:
    from lightning.fabric.utilities.data import AttributeDict
except ImportError:
    from lightning.pytorch.utilities.parsing import AttributeDict

pytestmark = pytest.mark.usefixtures("each_reader")


def read(path, data: bytes):
    path.write_bytes(data)
    return weights.read_weights(str(path))


# What hosts write -----------------------------------------------------------------


@pytest.fixture
def gone():
    """A tokenizer's class that is there when a file is written and never again."""
    module = types.ModuleType("transformers.models.gone.tokenization_gone")
    cls = type("GoneTokenizer", (), {"__module__": module.__name__})
    module.GoneTokenizer = cls
    sys.modules[module.__name__] = module
    yield cls
    sys.modules.pop(module.__name__, None)


CONFIG = {"model": {"length": 8, "name": "x", "sizes": [1, {"a": 2.5}]}, "T": 0}
CONFIG["same"] = "${model.length}"


def save_as_a_host(path, gone, hyper=dict):
    tokenizer = gone()
    tokenizer.added = {"[PAD]": 1}
    torch.save(
        {
            "state_dict": collections.OrderedDict(w=torch.arange(3.0)),
            "global_step": 17,
            "hyper_parameters": hyper(
                config=OmegaConf.create(CONFIG),
                tokenizer=[tokenizer, Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))],
                predictor=functools.partial(os.path.join, "a", b="c"),
                folder=pathlib.Path("x"),
                odd=collections.Counter("aab"),
            ),
        },
        path,
    )
    del sys.modules[gone.__module__]


@pytest.mark.parametrize("hyper", [dict, AttributeDict])
def test_configs_are_read_and_other_objects_left_out(tmp_path, caplog, gone, hyper):
    path = tmp_path / "host.ckpt"
    save_as_a_host(path, gone, hyper)
    with caplog.at_level(logging.INFO, "mdlm_mcd"):
        found = weights.read_weights(str(path))
    assert "omegaconf.dictconfig.DictConfig" in caplog.text and "GoneTokenizer" in caplog.text
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
        "big-endian": np.dtype(">i4").type(5),
        "dtype": torch.bfloat16,
        "keys": {0: 1, 1.5: 3, ("a", "b"): 4, None: 6, b"b": 7},
    }
    torch.save(values, tmp_path / "x.pt")
    found, _ = unpickling.load(str(tmp_path / "x.pt"))
    assert found == values and type(found["rate"]) is np.float64


def test_what_a_program_declared_safe_is_not_made_either(tmp_path, gone):
    save_as_a_host(tmp_path / "x.ckpt", gone)
    if not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("this torch has no such list")
    with torch.serialization.safe_globals([type(OmegaConf.create({}))]):
        declared = set(torch.serialization.get_safe_globals())
        assert weights.read_weights(str(tmp_path / "x.ckpt")).config == CONFIG
        assert set(torch.serialization.get_safe_globals()) == declared


def test_tensors_are_mapped_from_the_file(tmp_path):
    """Memory that a file of 500 MB takes is then the model's alone."""
    data = checkpoint({"w": tensor(size=(2, 2), stride=(1, 2))}, struct.pack("<4f", 1, 2, 3, 4))
    for _ in range(2):
        found = read(tmp_path / "x.ckpt", data).state_dict["w"]
        assert torch.equal(found, torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
        found[0, 0] = 5.0  # of this process alone


# What would do harm ---------------------------------------------------------------


def test_the_canary_is_alive(tmp_path, monkeypatch):
    """Opened as torch opened such files for years, the same bytes do run."""
    monkeypatch.chdir(tmp_path)
    data = checkpoint(with_config(Call(eval, "open('canary', 'w').close()")))
    assert set(read(tmp_path / "pytorch_model.bin", data).state_dict) == {"w"}
    assert set(weights.read_weights(str(tmp_path)).state_dict) == {"w"}
    assert os.listdir(tmp_path) == ["pytorch_model.bin"]
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "canary").exists()


REBUILD = torch._utils._rebuild_tensor_v2
CLAIMS = {
    "storage": tensor(Stored(1 << 40), size=(1 << 40,)),
    "past the end": tensor(Stored(200), size=(200,)),
    "size": tensor(size=(1 << 20,)),
    "offset": tensor(offset=1 << 30),
    "negative offset": tensor(offset=-4),
    "negative stride": tensor(stride=(-1,)),
    "negative count": tensor(Stored(-4)),
    "one number for all": tensor(size=(1 << 20, 1 << 20), stride=(0, 0)),
    "allocated": Call(torch.FloatTensor, 1 << 44),
    "bytes": Call(bytes, 1 << 50),
    "no such record": tensor(Stored(key="7")),
    "scalar of objects": Call(np.float64(1).__reduce__()[0], np.dtype("O"), b"\0" * 8),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_nothing_is_larger_than_the_file(tmp_path, name):
    with pytest.raises(CheckpointError):
        read(tmp_path / "x.ckpt", checkpoint({"w": CLAIMS[name], "v": tensor()}))


def test_tensors_without_numbers_are_no_weights(tmp_path):
    empty = Call(
        torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40,), (1,), False
    )
    found = read(tmp_path / "x.ckpt", checkpoint({"w": empty, "v": tensor()}))
    assert set(found.state_dict) == {"v"}
    bad = {"state_dict": {"w": tensor()}, "ema": {"shadow_params": [empty]}}
    with pytest.raises(CheckpointError, match="an EMA that is no list of tensors"):
        read(tmp_path / "x.ckpt", checkpoint(bad))


class WithState:
    """Its pickle gives the object that `call` makes this state."""

    def __init__(self, call, state):
        self.call, self.state = call, state

    def __reduce__(self):
        return *self.call.__reduce__(), self.state


def test_attributes_that_a_file_gives_are_not_taken(tmp_path):
    names = dict.fromkeys(("items", "get", "keys", "values", "__iter__"), 5)
    named = WithState(Call(collections.OrderedDict, [("w", tensor())]), names)
    weight = Call(
        torch._tensor._rebuild_from_type_v2,
        REBUILD,
        torch.Tensor,
        (Stored(), 0, (4,), (1,), False, collections.OrderedDict()),
        {"numel": 3, "detach": 4, "isfinite": 5},
    )
    content = {"state_dict": named, "hyper_parameters": {"config": named}, "mdlm_mcd": named}
    for found in (
        read(tmp_path / "x.ckpt", checkpoint(content)),
        read(tmp_path / "x.ckpt", checkpoint({"w": weight})),
    ):
        assert found.state_dict["w"].numel() == 4 and found.state_dict["w"].isfinite().all()


@pytest.mark.parametrize("target", [torch.UntypedStorage, REBUILD, torch.FloatStorage])
def test_a_file_cannot_change_torch(tmp_path, target):
    """The operation BUILD sets attributes, and would do so on classes and functions."""
    name = f"{target.__module__}\n{target.__name__}".encode()
    with pytest.raises(CheckpointError):
        stream = b"\x80\x02c" + name + b"\nN}X\x06\x00\x00\x00canaryK\x01s\x86b."
        read(tmp_path / "x.ckpt", checkpoint(stream))
    assert not hasattr(target, "canary")


@pytest.mark.parametrize("copies, depth", [(10, 40), (1, 300)])
def test_configs_that_grow_or_nest_are_refused(tmp_path, copies, depth):
    config = [0]
    for _ in range(depth):
        config = [config] * copies
    with pytest.raises(CheckpointError, match="nested or repeats itself beyond reason"):
        read(tmp_path / "x.ckpt", checkpoint(with_config(config)))


def test_a_file_of_very_many_classes_is_refused(tmp_path):
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        pytest.skip("only torch's own unpickler takes long for it")
    some = b"".join(b"ca\nb%d\n" % i for i in range(unpickling.MOST_NAMES + 1))
    with pytest.raises(CheckpointError, match="it names 251 classes"):
        read(tmp_path / "x.ckpt", checkpoint(b"\x80\x02(" + some + b"t."))


# Files of another kind ------------------------------------------------------------


def old_torch():
    out = io.BytesIO()
    torch.save({"w": torch.ones(1)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def flipped():
    data = bytearray(checkpoint({"w": tensor()}, b"abcdefghijklmnop"))
    data[data.index(b"abcdef")] ^= 1
    return bytes(data)


WHOLE = checkpoint({"w": tensor()})


@pytest.mark.parametrize(
    "data,words",
    [
        (pickle.dumps(np.ones(3)), "a bare pickle.* and Duo writes its cache of integrals"),
        (old_torch(), "torch wrote before 1.6.*save weights again"),
        (b"PK", "not a file that torch.save wrote"),
        (b"", "not a file that torch.save wrote"),
        (WHOLE[:-200], "not a file that torch.save wrote.*truncated"),
        (checkpoint({"w": tensor()}, compress=True), "torch.save compresses nothing"),
        (archive({**records(WHOLE), "x/constants.pkl": b"."}), "it is a TorchScript program"),
        (flipped(), "the checksum of x/data/0 in it is wrong"),
        (archive({"y/a": b"."}), "cannot be read as a PyTorch checkpoint"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, data, words):
    with pytest.raises(CheckpointError, match=words) as refused:
        read(tmp_path / "x.ckpt", data)
    assert "\n" not in str(refused.value) and "algo.teacher_path" in str(refused.value)
