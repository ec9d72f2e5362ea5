"""Read the documents of the minihost, split them, and cache what is made of them.

A document is a `str`, or a pair of them (a prompt and its completion) where
`data=textpairs`; a corpus is a list of them in a fixed order. Documents go
to training or to validation by a hash of their text (of pairs: of the prompt), so the
split depends on nothing else, and equal documents never stand on both sides.
"""

import functools
import glob
import hashlib
import inspect
import itertools
import json
import logging
import os
import re
import sys
import sysconfig
from pathlib import Path

from omegaconf import OmegaConf

from ..checkpoints.files import ASSETS, expanded, write_text
from ..errors import ConfigError, border
from . import prose

log = logging.getLogger(__name__)

# Part of every cache key: raise it when the text or the tokenizer is made anew.
CACHE_VERSION = 1
PYTHON = sys.version

MIN_CHARS = 80
MIN_DOCUMENTS = 20
VALID_ONE_IN = 20

# Two or more blank lines, one or more, none: coarse to fine.
DOCUMENT_BREAK = r"\n(?:[^\S\n]*\n){2,}"
PARAGRAPH_BREAK = r"\n(?:[^\S\n]*\n)+"
LINE_BREAK = r"\n+"


def digest(*parts):
    """Return the hex SHA-256 of the parts, which cannot run into one another."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cached(cache_dir, name, build, parse=str):
    """Return `parse(text)` of a file in `cache_dir`, made by `build()` if missing.

    The file appears whole or not at all, and processes may race. Raises ConfigError where
    it cannot be written or read.
    """
    path = Path(expanded(cache_dir, "data.cache_dir"), name)
    text = None if path.is_file() else build()
    with border(
        f"data.cache_dir={cache_dir}: {path} cannot be read or written",
        "delete that file, which is then made anew, or name another folder",
    ):
        if text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        return parse(path.read_text(encoding="utf-8"))


def dedented(text):
    """Return dedented text with straight quotes."""
    # A lone surrogate, which an escape can spell, has no UTF-8.
    text = text.encode("utf-8", "ignore").decode("utf-8")
    return inspect.cleandoc(text.translate(str.maketrans("‘’“”\xa0", "''\"\" ")))


def normalise(text):
    """Return dedented text with straight quotes, without heading underlines."""
    lines = [line.rstrip() for line in dedented(text).splitlines()]
    # A rule of punctuation is markup, and dear: the BPE would spend merges on it.
    lines = [line for line in lines if not re.fullmatch(r"\s*([^\w\s])\1{3,}", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _of_python(cache_dir, name, find, *settings):
    """Return the documents `find()`, cached by the Python release and `settings`."""
    key = digest(CACHE_VERSION, PYTHON, sysconfig.get_path("stdlib"), *settings)
    file = f"{name}-{key[:16]}.json"
    return cached(cache_dir, file, lambda: json.dumps(find(), ensure_ascii=False), json.loads)


def stdlib_documents(cache_dir, max_chars):
    """Return English out of Python itself: its help topics and its docstrings.

    Normalised, without repeats, each of at least `MIN_CHARS` characters, and at
    most `max_chars` characters together.
    """

    def find():
        found, room = {}, max_chars
        for text in map(normalise, itertools.chain.from_iterable(prose.sources())):
            if len(text) < MIN_CHARS or text in found:
                continue
            if len(text) > room:
                break
            found[text] = None
            room -= len(text)
        return list(found)

    return _of_python(cache_dir, "stdlib", find, max_chars)


def prose_documents(cache_dir, packages):
    """Return the English prose in docstrings of Python and of `packages`, by module.

    Depends on the releases of all of them. Raises ConfigError.
    """
    find = functools.partial(prose.documents, packages, dedented)
    return _of_python(cache_dir, "prose", find, prose.versions(packages))


def _expand(key, patterns):
    """Return the files that paths and globs name, each once, in a fixed order."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or [])
    paths = {}
    for pattern in patterns:
        # A file whose very name has brackets is that file, not a pattern.
        found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        found = sorted(name for name in found if os.path.isfile(name))
        if not found:
            raise ConfigError(
                f"data.{key}: {pattern} matches no file: check the path; a relative "
                "one starts at the folder the run is launched from."
            )
        paths.update({os.path.realpath(name): None for name in found})
    return list(paths)


def _read(key, path):
    with border(
        f"data.{key}: {path} cannot be read as UTF-8",
        "name a file that can, or convert it, e.g. with iconv -t utf-8",
    ):
        # `utf-8-sig` also takes away the mark some editors put first.
        return Path(path).read_text(encoding="utf-8-sig")


def _texts(key, patterns):
    texts = (_read(key, path) for path in _expand(key, patterns))
    return [text for text in texts if text.strip()]


def _pieces(texts, end):
    # Files put one after another leave byte order marks inside.
    found = (t.strip("\n\ufeff") for text in texts for t in re.split(end, text))
    return [piece for piece in found if piece.strip()]


def _document_end(texts):
    """Return the pattern at which documents end, see `textfile_documents`."""
    if len(_pieces(texts, DOCUMENT_BREAK)) >= MIN_DOCUMENTS:
        return DOCUMENT_BREAK
    return PARAGRAPH_BREAK if len(_pieces(texts, PARAGRAPH_BREAK)) > len(texts) else LINE_BREAK


def textfile_documents(key, patterns, separator=None, like=None):
    """Return the documents of the text files that `patterns` (paths or globs) name.

    With a `separator`, documents end at the lines equal to it. Without, they end
    at two or more blank lines; if that gives fewer than `MIN_DOCUMENTS`
    documents, at every blank line; if that gives no more than there are files, at every
    line. The files of `like` decide it, patterns of data.files, in place of these if there
    are any. The end of a file always ends a document. Raises ConfigError where there is
    no file or one is not UTF-8.
    """
    texts = _texts(key, patterns)
    if separator:
        end = rf"(?:^|\n)[^\S\n]*{re.escape(str(separator).strip())}[^\S\n]*(?=\n|$)"
    else:
        end = _document_end(_texts("files", like or ()) or texts)
    return _pieces(texts, end)


def pairs(key, patterns):
    """Return (prompt, completion) of each JSON line of the files that `patterns` name.

    Raises ConfigError for a line without both as text.
    """
    found = []
    for path in _expand(key, patterns):
        for number, line in enumerate(_read(key, path).split("\n"), 1):
            if not line.strip():
                continue
            with border(
                f"data.{key}: line {number} of {path} is no pair of texts",
                'write it like {"prompt": "some text", "completion": "more text"}',
            ):
                row = json.loads(line)
                pair = row["prompt"], row["completion"]
                # An escape can spell half a character, a lone surrogate, which has no UTF-8.
                "".join(pair).encode()
            found.append(pair)
    return found


def split(documents):
    """Return (training, validation) documents: one in `VALID_ONE_IN` is validation.

    Pairs of one prompt stay together; without a prompt, or where all have the same, each
    stands for itself. A small corpus may have no hash of that kind; then the smallest hash
    decides, so neither side is empty if there are two distinct documents.
    """
    prompts = {text[0] for text in documents if not isinstance(text, str)}

    def key(text):
        return text if isinstance(text, str) or len(prompts) < 2 else text[0] or text

    hashes = {part: int(digest(part)[:16], 16) for part in map(key, documents)}
    valid = {part for part, value in hashes.items() if value % VALID_ONE_IN == 0}
    if hashes and len(valid) in (0, len(hashes)):
        valid = {min(hashes, key=hashes.get)}
    return (
        [text for text in documents if key(text) not in valid],
        [text for text in documents if key(text) in valid],
    )


def documents(data, mode):
    """Return the documents of `data.train` (mode "train") or `data.valid` ("valid").

    data: the `data` config, with one of `dataloader.LOCAL` for that mode. Raises ConfigError.
    """
    if data[mode] == "shipped":
        return textfile_documents("files", str(ASSETS / "text" / f"{mode}.txt"))

    def read_files(key):
        if data[mode] == "textpairs":
            return pairs(key, data[key])
        # Held-out text is broken as training text is, or would not be found in it again.
        like = key == "valid_files" and data.get("train") == "textfile" and data.get("files")
        return textfile_documents(key, data[key], data.get("separator"), like)

    if data[mode] == "prose":
        found = prose_documents(data.cache_dir, list(data.get("packages") or []))
    elif data[mode] == "stdlib":
        found = stdlib_documents(data.cache_dir, data.get("max_chars", 6_000_000))
    elif data.get("valid_files"):
        held_out = read_files("valid_files")
        return held_out if mode == "valid" else _without(held_out, read_files("files"))
    else:
        found = read_files("files")
    return split(found)[mode == "valid"]


def _without(held_out, found):
    held_out = set(held_out)
    train = [text for text in found if text not in held_out]
    if left_out := len(found) - len(train):
        log.warning(
            "%d documents of data.files are also in data.valid_files: left out of training.",
            left_out,
        )
    return train


def huggingface_dataset(data, mode):
    """Return the documents of a Hugging Face dataset, in its own order.

    `data.train` / `data.valid` is the name of a dataset, a loader such as `json`
    (with `data.data_files`), or a folder that `save_to_disk` wrote. Returns a
    datasets.Dataset whose one column is `data.text_key`. Raises ConfigError.
    """
    name = data[mode]
    with border(
        f"data.{mode}={name} takes the package datasets",
        "pip install mdlm-mcd[data], or use data=stdlib or data=textfile",
    ):
        import datasets
    part, files = _part(data, mode), data.get("data_files")
    on_disk = any(Path(name, f"dataset_{kind}.json").is_file() for kind in ("dict", "info"))
    with reading(data, mode):
        if on_disk:
            found = datasets.load_from_disk(name)
            # A bare dataset counts as the training split, as `load_dataset` has it.
            found = (found if isinstance(found, dict) else {"train": found})[part]
        else:
            found = datasets.load_dataset(
                name,
                data.get(f"{mode}_config"),
                data_files=OmegaConf.to_container(files) if OmegaConf.is_config(files) else files,
                split=part,
                cache_dir=data.cache_dir,
                revision=data.get(f"{mode}_revision"),
            )
        return found.select_columns([data.text_key])


def named(data, mode):
    """Return how messages call the documents of a mode: key, value and files."""
    key = "data_files"
    if data[mode] in ("textfile", "textpairs"):
        key = "valid_files" if mode == "valid" and data.get("valid_files") else "files"
    files = data.get(key)
    return f"data.{mode}={data[mode]}" + ("" if files is None else f" (data.{key}={files})")


def _part(data, mode):
    """Return the split of a Hugging Face dataset that a mode reads."""
    return data.get(f"{mode}_split") or {"train": "train", "valid": "validation"}[mode]


def reading(data, mode):
    """Return the border on the package datasets."""
    return border(
        f"{named(data, mode)} with data.{mode}_split={_part(data, mode)} and "
        f"data.text_key={data.text_key} cannot be read",
        "check name, split, column and network, and that files are whole, of the same columns",
    )
