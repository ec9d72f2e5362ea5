"""Damaged and evil files: they end in weights or in one sentence, and run nothing."""

from __future__ import annotations

import json
import os
import pickletools
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save
from torch_files import INDEX, MODEL, archive, folders, lightning_like, members, net, saved

from mdlm_mcd.checkpoints import weights
from mdlm_mcd.errors import CheckpointError, ConfigError

SECONDS = 20  # of the processor; a case takes milliseconds
MARKER = "marker"
torch.manual_seed(0)  # the same bytes in every run
CHECKPOINT = lightning_like(net()) | {
    "hyper_parameters": {"config": OmegaConf.create({"model": MODEL, "seed": 1})},
    "mdlm_mcd": {"loss": "hybrid"},
}
TENSORS = CHECKPOINT["state_dict"]
FORMATS = {
    "ckpt": {"x.ckpt": saved(CHECKPOINT)},
    "safetensors": {"x.safetensors": save(TENSORS, {"global_step": "7", "mdlm_mcd": "{}"})},
    "bin folder": folders(TENSORS)["bin"],
    "sharded folder": folders(TENSORS)["sharded"],
}


@pytest.fixture
def is_opened(tmp_path_factory, monkeypatch):
    """`is_opened(files)`: whether they fill a model; the only error is our own, one line."""
    folder = tmp_path_factory.mktemp("files")
    monkeypatch.chdir(tmp_path_factory.mktemp("current"))

    def is_opened(files: dict[str, bytes]) -> bool:
        for path in folder.iterdir():
            path.unlink()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        path = folder / next(iter(files)) if len(files) == 1 else folder
        started, model = time.process_time(), net()
        try:
            found = weights.read_weights(str(path))
            json.dumps([found.config, found.mdlm_mcd, found.global_step])
            weights.check_process(found, "x")
            weights.model_sizes(found.config)
            taken = weights.load_weights(model, model.named_parameters(), found, "raw", "x")
            assert taken and all(p.isfinite().all() for p in model.parameters())
        except (CheckpointError, ConfigError) as refused:
            assert "\n" not in str(refused) and str(refused).isprintable()
            return False
        finally:
            assert time.process_time() - started < SECONDS
            # No file but those, neither there nor in the current folder.
            assert {path.name for path in folder.iterdir()} == set(files)
            assert not os.path.exists(MARKER)
        return True

    return is_opened


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_are_opened(is_opened, kind):
    assert is_opened(FORMATS[kind])


def examples(count: int):
    known = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, suppress_health_check=known)


# Bytes and JSON -------------------------------------------------------------------

PLACE = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "remove", "repeat", "put"]), PLACE, st.binary()),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes) -> bytes:
    for how, place, put in changes:
        at = int(place * len(data))
        to = at + 1 + len(put)
        data = {
            "flip": data[:at] + bytes([data[at] ^ (put[:1] or b"\x80")[0]]) + data[at + 1 :],
            "cut": data[:at],
            "remove": data[:at] + data[to:],
            "repeat": data[:to] + data[at:],
            "put": data[:at] + put + data[to:],
        }[how] or b"\0"
    return data


@pytest.mark.parametrize("kind", FORMATS)
@examples(40)
@given(changes=CHANGES, index=st.integers(0, 3))
def test_bytes_flipped_cut_and_removed(is_opened, kind, changes, index):
    files = FORMATS[kind]
    name = list(files)[index % len(files)]
    is_opened({**files, name: changed(files[name], changes)})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["weight_map", "mdlm_mcd", "algo", "model", "n_heads", "model_type"])


@examples(60)
@given(
    content=JSON | st.dictionaries(KEYS | st.text(), JSON, max_size=3),
    name=st.sampled_from([INDEX, "config.json"]),
)
def test_any_json_beside_the_weights(is_opened, content, name):
    is_opened({**FORMATS["sharded folder"], name: json.dumps(content).encode()})


# Members and pickles --------------------------------------------------------------

WHOLE = members(FORMATS["ckpt"]["x.ckpt"])
PICKLE = next(name for name in WHOLE if name.endswith("data.pkl"))


@examples(80)
@given(data=st.data())
def test_members_of_the_archive_swapped_dropped_and_changed(is_opened, data):
    """The archive's own checksums are right again, so that torch reads what is there."""
    parts = dict(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        a, b = (data.draw(st.sampled_from(sorted(parts))) for _ in range(2))
        match data.draw(st.sampled_from(["swap", "drop", "change", "rename"])):
            case "swap":
                parts[a], parts[b] = parts[b], parts[a]
            case "drop" if len(parts) > 2:
                del parts[a]
            case "rename" if len(parts) > 2:
                parts[a + data.draw(st.sampled_from(["0", "/", "\u00e4"]))] = parts.pop(a)
            case _:
                parts[a] = changed(parts[a] or b"\0", data.draw(CHANGES))
    is_opened({"x.ckpt": archive(parts, compress=data.draw(st.booleans()))})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(name: str, *args: bytes, how=b"R") -> bytes:
    return f"c{name}\n".encode().replace(b" ", b"\n") + b"(" + b"".join(args) + b"t" + how


WRITE, TOUCH = text(f"open({MARKER!r}, 'w').close()"), text(f"touch {MARKER}")
MANY = b"\x8a\x06" + b"\0" * 5 + b"\x10"  # 2**44
OPENERS = """importlib import_module,runpy run_path,functools reduce,shutil rmtree,
    pathlib Path.touch,torch load,torch from_file,torch.hub load,torch.jit load,numpy load,
    numpy memmap,ctypes CDLL,weakref finalize,mdlm_mcd.checkpoints.files write_json"""
EVIL = [
    *(call(f"{m} {n}", WRITE) for m in ("builtins", "__builtin__") for n in ("exec", "eval")),
    *(call(name, TOUCH) for name in ("os system", "subprocess check_call")),
    *(call(name.strip(), text(MARKER), text("w")) for name in OPENERS.split(",")),
    call("builtins open", text(MARKER), text("w")),
    call("os mkdir", text(MARKER), how=b"\x81"),
    call("builtins getattr", b"cos\nsystem\n", text("__call__")) + TOUCH + b"\x85R",
    call("functools partial", b"cbuiltins\neval\n", WRITE) + b")R",
    call("builtins bytearray", MANY),
    call("torch FloatStorage", MANY),
    call("torch._utils _rebuild_tensor_v2", b"K\x01", b"K\0", b")", b")", b"\x89", b"}"),
    call("torch.storage _load_from_bytes", text("x")),
    b"ctorch\nUntypedStorage\nN}" + text("x") + b"K\x01s\x86b",
    b"\x82\x01",
    b"r\xff\xff\xff\x7f",
    b"i" + b"builtins\neval\n",
]
PARTS = st.sampled_from(EVIL) | st.binary(min_size=1, max_size=4)


@examples(160)
@given(parts=st.lists(st.tuples(PLACE, PARTS), min_size=1, max_size=6), mend=st.booleans())
def test_operations_put_into_the_pickle(is_opened, parts, mend):
    stream = WHOLE[PICKLE]
    starts = [at for _, _, at in pickletools.genops(stream)][1:]
    # From the end, so that the places before it stay.
    for place, part in sorted(parts, reverse=True):
        at = starts[int(place * len(starts))]
        stream = stream[:at] + part + (b"0" * mend) + stream[at:]
    is_opened({"x.ckpt": archive({**WHOLE, PICKLE: stream})})


@pytest.mark.parametrize("at", [b"", text("state_dict"), text("hyper_parameters")])
def test_evil_objects_in_each_place(is_opened, at):
    for evil in EVIL:
        stream = b"}" + at + evil + b"s" if at else evil
        files = {"x.ckpt": archive({**WHOLE, PICKLE: b"\x80\x02" + stream + b"."})}
        assert not is_opened(files), evil
