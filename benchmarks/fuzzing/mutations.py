"""Inputs made a little wrong: bytes, pickles, records of an archive, JSON, words."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile

from . import pickling

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**47,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**19,
    10**400,
    -(2**63),
)
FLOATS = (0.0, -0.0, 1e-320, 1e-9, 0.5, 1e308, -1e308, float("inf"), float("nan"))
WORDS = (
    "",
    "\0",
    "\ud800",
    "\u2028",
    "\x85",
    "\x1b[31m",
    "\u202e",
    "../../x",
    "~",
    "..",
    "/etc/passwd",
    "${oc.env:HOME}",
    "${eval:1}",
    "${",
    "\\${a}",
    "'",
    '"',
    "<b>",
    "|",
    "`",
    "nan",
    "null",
    "True",
    "1e3",
    "backbone." * 50,
    "x" * 5000,
    "\u00b2",
    "\u0663",
    "C:\\x",
    "a\nb",
    "{0}",
    "%s",
    "[",
    "{",
    "!!python/object/apply:os.system",
    "&a [*a]",
)


def of_bytes(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        n = len(data)
        i = rng.randrange(n + 1)
        j = min(n, i + rng.choice((1, 1, 2, 4, 8, 64, 1024)))
        kind = rng.randrange(8)
        if kind == 0 and n:
            data[min(i, n - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[i:j]
        elif kind == 2:
            data[i:i] = data[i:j] * rng.choice((1, 2, 50))
        elif kind == 3:
            del data[i:]
        elif kind == 4:
            width = rng.choice("BHIQ")
            value = rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(width))
            data[i : i + struct.calcsize(width)] = struct.pack("<" + width, value)
        elif kind == 5:
            data[i:j] = rng.randbytes(j - i)
        elif kind == 6:
            data[i:i] = rng.choice(WORDS).encode("utf-8", "surrogatepass")
        else:
            other = rng.choice(others)
            k = rng.randrange(len(other) + 1)
            data[i:j] = other[k : k + rng.choice((4, 32, 512))]
    return bytes(data)


def of_pickle(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Operations dropped, doubled, moved; numbers and names changed; harm put in."""
    at = pickling.operations(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.choice(at)
        later = [x for x in at if x > i][: rng.choice((1, 1, 3, 20))]
        j = later[-1] if later else len(data)
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:i] + data[j:]
        elif kind == 1:
            data = data[:j] + data[i:j][:2000] * rng.choice((1, 3, 300)) + data[j:]
        elif kind == 2:
            part = pickling.number(rng.choice(NUMBERS))
            data = data[:i] + part + data[j:] if len(part) < 250 else data
        elif kind == 3:
            put = pickling.harm(rng.choice(pickling.HARM), "touch canary")
            data = data[:i] + put + data[rng.choice((i, j)) :]
        elif kind == 4:
            put = rng.choice(list(pickling.bombs().values()))
            data = data[:i] + put + data[rng.choice((i, j)) :]
        elif kind == 5:
            data = data[:i] + pickling.text(rng.choice(WORDS)) + data[j:]
        else:
            return of_bytes(rng, data, others)
    return data


def of_checkpoint(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The archive's bytes, or its records, written again with right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            records = {n: file.read(n) for n in file.namelist()}
    except Exception:  # what was mutated before may be no archive
        return of_bytes(rng, data, others)
    name = next((n for n in records if n.endswith("data.pkl")), None)
    kind = rng.randrange(10)
    if kind == 0 or not records:
        return of_bytes(rng, data, others)
    if kind == 1:
        name = rng.choice(list(records))
        records[name] = of_bytes(rng, records[name], others)
    elif kind == 2:
        held = records.pop(rng.choice(list(records)))
        names = ("x/code/a.py", "constants.pkl", "../y", "x/data/0", "x/.data/v", "/z")
        records[rng.choice(names)] = held
    elif kind == 3:
        return pickling.archive(records, compress=True)
    elif name is not None:
        records[name] = of_pickle(rng, records[name], others)
    return pickling.archive(records)


def of_safetensors(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Its bytes, or its header as JSON with its length set right."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    except Exception:
        return of_bytes(rng, data, others)
    if rng.random() < 0.3:
        return of_bytes(rng, data, others)
    text = json.dumps(of_json(rng, header)).encode()
    size = rng.choice(NUMBERS) % 2**64 if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", size) + text + body


def of_json(rng: random.Random, value, other=lambda rng, leaf: None):
    """A tree with one or a few of its parts changed.

    other(rng, leaf): what takes the place of a leaf that JSON does not have, or None.
    """
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _one(rng, value, other)
    return value


def _one(rng: random.Random, value, other):
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        value = dict(value)
        kind = rng.randrange(8)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[rng.choice(WORDS)] = value.pop(key)
        elif kind == 2:
            value[key] = value[rng.choice(list(value))]
        else:
            value[key] = _one(rng, value[key], other)
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        changed = _one(rng, value[i], other)
        return value[:i] + [changed] + value[i + rng.randrange(2) :]
    if (leaf := other(rng, value)) is not None:
        return leaf
    nested = value
    for _ in range(rng.choice((1, 3, 200))):
        nested = [nested]
    return rng.choice(
        (
            None,
            True,
            False,
            [],
            {},
            {"a": value},
            nested,
            rng.choice(NUMBERS),
            rng.choice(FLOATS),
            rng.choice(WORDS),
            rng.choice(WORDS),
            str(value),
        )
    )


def of_lines(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """JSON lines: a row changed as a tree, or the bytes."""
    lines = data.split(b"\n")
    if rng.random() < 0.3:
        return of_bytes(rng, data, others)
    i = rng.randrange(len(lines))
    try:
        row = of_json(rng, json.loads(lines[i]))
        lines[i] = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return of_bytes(rng, data, others)
    if rng.random() < 0.2:
        lines.insert(i, lines[rng.randrange(len(lines))])
    return b"\n".join(lines)


def of_document(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One JSON document: as a tree, or its bytes."""
    try:
        if rng.random() < 0.2:
            raise ValueError
        return json.dumps(of_json(rng, json.loads(data))).encode()
    except (ValueError, RecursionError):
        return of_bytes(rng, data, others)


def of_words(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Overrides, one a line: values exchanged, letters changed, lines dropped."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        i = rng.randrange(len(lines))
        key, equals, value = lines[i].partition("=")
        kind = rng.randrange(6)
        if kind == 0:
            pool = (*WORDS, *map(str, (*NUMBERS, *FLOATS)))
            lines[i] = f"{key}={rng.choice(pool)}"
        elif kind == 1:
            j = rng.randrange(len(key) + 1)
            lines[i] = key[:j] + rng.choice("abz._+~@/ ") + key[j + 1 :] + equals + value
        elif kind == 2:
            lines[i] = key + equals + rng.choice(lines).partition("=")[2]
        elif kind == 3:
            lines[i] = rng.choice(("+", "++", "~", "")) + lines[i]
        elif kind == 4 and len(lines) > 1:
            del lines[i]
        else:
            line = of_bytes(rng, lines[i].encode(), [b"{}[]()'\"\\,:=${}"])
            lines[i] = line.decode("utf-8", "replace")
    return "\n".join(lines).encode("utf-8", "replace")
