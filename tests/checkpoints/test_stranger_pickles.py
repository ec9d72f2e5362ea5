"""Pickles that mean harm: what they name is not called, what they ask not given."""

import io
import json
import os
import struct
import tracemalloc
import zipfile

import pytest
import torch
from fuzzing import pickling
from hypothesis import given
from hypothesis import strategies as st

from mdlm_mcd.checkpoints import safe_globals, unpickling, weights
from mdlm_mcd.errors import CheckpointError


def read(path, data: bytes):
    path.write_bytes(data)
    return weights.read_weights(str(path))


@pytest.mark.parametrize("name", pickling.HARM)
@pytest.mark.parametrize("how", [b"R", b"\x81"])
def test_what_would_do_harm_is_named_and_not_called(tmp_path, monkeypatch, name, how):
    monkeypatch.chdir(tmp_path)
    body = pickling.call(name, pickling.text("touch canary"), how=how)
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickling.checkpoint(pickling.as_hyper(body)))
    full = name.replace(" ", ".").replace("__builtin__", "builtins")
    try:
        _, skipped = unpickling.load(path)
        assert skipped == {full} or full in safe_globals.CALLS or full in safe_globals.QUIET
    except Exception as refused:  # what is on the list, with arguments that are not
        assert "bytes" in full or "UntypedStorage" in full, refused
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_the_canary_is_alive(tmp_path, monkeypatch):
    """Opened as torch opened such files for years, the same bytes do run."""
    monkeypatch.chdir(tmp_path)
    body = pickling.harm("os system", "touch canary")
    data = pickling.checkpoint(pickling.as_hyper(body))
    read(tmp_path / "x.ckpt", data)
    assert not (tmp_path / "canary").exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert (tmp_path / "canary").exists()


BOMBS = pickling.bombs(120_000)
REFUSED = {
    "nested key": "a key that is a tuple of other things",
    "nested member": "a key that is a tuple of other things",
    "laughs": "repeats itself beyond reason",
    "itself": "repeats itself beyond reason",
    "copies": "copies its own parts",
    "bytearray": "a bytearray made of a int",
    "bytearray8": "the pickle operation",
    "storage": "a call of a Storage is not made",
    "long": "the pickle operation",
    "short": "numbers in 16 bytes",
    "offset": "over 4 stored numbers",
    "expanded": "over 4 stored numbers",
    "negative": "whose shape is no shape",
    "class": "the state of a Storage is not read",
    "extension": "the pickle operation",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bombs_are_refused_in_little_memory(tmp_path, name):
    """Each of them once took the process down, or its memory, or its minutes."""
    data = pickling.checkpoint(pickling.as_hyper(BOMBS[name]))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=REFUSED[name]):
        read(tmp_path / "x.ckpt", data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("name", ["nested list", "empty", "attribute", "default"])
def test_oddities_that_do_no_harm_open(tmp_path, name):
    body = pickling.as_hyper(b"N") if name == "nested list" else BOMBS[name]
    held = pickling.checkpoint(b"}" + pickling.text("w") + pickling.tensor() + b"s")
    assert set(read(tmp_path / "a.ckpt", held).state_dict) == {"w"}
    (tmp_path / "x.ckpt").write_bytes(pickling.checkpoint(body))
    found, _ = unpickling.load(tmp_path / "x.ckpt")
    if name == "attribute":
        assert list(found.items()) == []  # its own `items` was not taken over
    if name == "default":
        with pytest.raises(KeyError):
            found["x"]


def test_a_tensor_stays_in_its_storage(tmp_path):
    inside = pickling.tensor(size=(2, 2), stride=(1, 2))
    held = b"}" + pickling.text("w") + inside + b"s"
    data = pickling.checkpoint(held, **{"x/data/0": struct.pack("<4f", 1, 2, 3, 4)})
    found = read(tmp_path / "x.ckpt", data).state_dict["w"]
    assert torch.equal(found, torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    outside = pickling.tensor(size=(2, 2), stride=(1, 3))
    with pytest.raises(CheckpointError, match=r"shape \(2, 2\) over 4 stored"):
        read(tmp_path / "x.ckpt", pickling.checkpoint(held[:0] + outside))


def test_few_stored_numbers_do_not_stand_for_many(tmp_path):
    body = b"}" + b"".join(pickling.text(f"w{i}") + pickling.tensor() + b"s" for i in range(8))
    with pytest.raises(CheckpointError, match="128 bytes of weights out of 16 stored"):
        read(tmp_path / "x.ckpt", pickling.checkpoint(body))


TENSOR = b"}" + pickling.text("w") + pickling.tensor() + b"s"


@pytest.mark.parametrize(
    "records,words",
    [
        ({"x/data/0": None}, "no item named|in 0 bytes"),
        ({"x/data/0": b"\0" * 8}, "4 numbers in 8 bytes"),
        ({"x/byteorder": b"big"}, "big-endian"),
        ({"y/data.pkl": b"."}, "not one that torch.save wrote"),
        ({"x/code/a.py": b"1"}, "TorchScript"),
    ],
)
def test_archives_that_are_not_what_they_say(tmp_path, records, words):
    held = {"x/data.pkl": pickling.stream(TENSOR), "x/data/0": b"\0" * 16, **records}
    held = {name: data for name, data in held.items() if data is not None}
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / "x.ckpt", pickling.archive(held))


def test_nothing_is_unpacked(tmp_path):
    data = pickling.archive({"x/data.pkl": b"\0" * 10**7}, compress=True)
    assert len(data) < 20_000
    with pytest.raises(CheckpointError, match="compressed"):
        read(tmp_path / "x.ckpt", data)
    path = tmp_path / "twice.ckpt"
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning):
        for _ in range(2):
            file.writestr("x/data.pkl", pickling.stream(TENSOR))
    with pytest.raises(CheckpointError, match="two records of one name"):
        weights.read_weights(str(path))
    # The directory promises a gigabyte that the file does not have.
    data = bytearray(pickling.checkpoint(TENSOR))
    at = data.rindex(b"x/data/0") - 46
    data[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    with pytest.raises(CheckpointError, match="declares more than it holds"):
        read(tmp_path / "x.ckpt", bytes(data))


@pytest.mark.parametrize(
    "data,words",
    [
        (pickling.stream(b"N"), "a bare pickle.*integral cache of Duo's"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "from before 1.6"),
        (b"PK", "not a file that torch.save wrote"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, data, words):
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / "x.ckpt", data)


def test_a_foreign_state_dict_is_named(tmp_path):
    body = b"}" + pickling.text("state_dict") + pickling.call("a.b Weights") + b"s"
    with pytest.raises(CheckpointError, match=r"a a\.b\.Weights without tensors"):
        read(tmp_path / "x.ckpt", pickling.checkpoint(body))


def test_an_average_that_is_none_is_refused(tmp_path):
    held = {"state_dict": {"w": torch.ones(2)}, "ema": {"shadow_params": 5}}
    for shadow in (5, "ab", [torch.ones(1), None]):
        held["ema"]["shadow_params"] = shadow
        torch.save(held, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match="an EMA that is no list of tensors"):
            weights.read_weights(str(tmp_path / "x.ckpt"))


def test_a_long_prefix_takes_no_time(tmp_path):
    name = "backbone." * 100_000 + "w"  # was taken off one by one
    torch.save({name: torch.ones(2)}, tmp_path / "x.ckpt")
    (found,) = weights.read_weights(str(tmp_path / "x.ckpt")).state_dict
    assert len(found) == len(name) - 18


OPERATIONS = st.sampled_from([bytes([code]) for code in range(256)])
ARGUMENTS = st.one_of(
    st.binary(max_size=9),
    st.text(max_size=9).map(pickling.text),
    st.integers(-(2**70), 2**70).map(pickling.number),
    st.sampled_from(pickling.HARM).map(lambda name: pickling.harm(name, "x")),
    st.sampled_from([v for k, v in pickling.bombs(50).items() if k != "long"]),
    st.just(pickling.tensor()),
)


@given(parts=st.lists(st.one_of(OPERATIONS, ARGUMENTS), max_size=30))
def test_any_program_of_pickle_ends_in_our_own_error(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "x.ckpt"
    data = pickling.checkpoint(pickling.as_hyper(b"".join(parts)))
    try:
        found = read(path, data)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        json.dumps(found.config), json.dumps(found.mdlm_mcd)


# Keys of one hash ---------------------------------------------------------------------


def _long(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _complex(real: int, imaginary: int) -> bytes:
    parts = (b"G" + struct.pack(">d", x) for x in (real, imaginary))
    return pickling.call("builtins complex", *parts)


def _pair(i: int) -> tuple[int, int]:
    """(i, j) whose hash in CPython is the same for every i, j beyond 32 bits."""
    size, a, b, c = (2**64, 11400714785074694791, 14029467366897019727, 2870177450012600261)

    def turned(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) % size

    first = turned((c + i * b) % size, 31) * a % size
    wanted = turned(12345 * pow(a, -1, size) % size, 33)
    return i, (wanted - first) * pow(b, -1, size) % size


PRIME = 2**61 - 1
COLLIDING = {
    "int": [_long(i * PRIME) for i in range(1, 30_000)],
    "complex": [_complex(-1_000_003 * i, i) for i in range(30_000)],
    "tuple": [_long(i) + _long(j) + b"\x86" for i, j in map(_pair, range(1, 30_000)) if j < PRIME],
}


@pytest.mark.parametrize("kind", COLLIDING)
@pytest.mark.parametrize("what", ["keys", "members"])
def test_keys_of_one_hash_are_refused(tmp_path, kind, what):
    """In a minute of look-ups for 60,000 of them; half a megabyte of file."""
    some = b"".join(key + b"N" * (what == "keys") for key in COLLIDING[kind])
    body = b"}(" + some + b"u" if what == "keys" else b"\x8f(" + some + b"\x90"
    with pytest.raises(CheckpointError, match=f"a key that is a {kind} of numbers"):
        read(tmp_path / "x.ckpt", pickling.checkpoint(pickling.as_hyper(body)))


def test_pairs_have_one_hash():
    """Else the file above would be of something else."""
    pairs = [pair for pair in map(_pair, range(1, 200)) if pair[1] < PRIME]
    assert len({hash(pair) for pair in pairs}) == 1 < len(pairs)


def test_keys_that_hosts_write_are_read(tmp_path):
    held = {0: 1, 2**40: 2, 1.5: 3, ("a", "b"): 4, ("a", 7): 5, None: 6, b"b": 7}
    torch.save({"w": torch.ones(1), "keys": held}, tmp_path / "x.ckpt")
    assert unpickling.load(tmp_path / "x.ckpt")[0]["keys"] == held
