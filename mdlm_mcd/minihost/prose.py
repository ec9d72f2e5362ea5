"""Find English sentences in the docstrings of Python and of installed packages.

A document is what one module says, a paragraph a line: of each docstring the paragraphs
that are sentences, without signatures, code, lists of names and markup, joined over line
breaks. Repetitions are left out, also those that change a few words, so that nothing of
what is held out stands, hardly changed, in the training text.
"""

import ast
import itertools
import os
import re
import sysconfig
import warnings
from importlib import metadata, util
from pathlib import Path

from ..errors import ConfigError

SKIPPED_FOLDERS = {*"benchmarks idle_test idlelib lib2to3 test testing tests".split()}
SKIPPED_FOLDERS |= {"__pycache__", "_vendor", "dist-packages", "site-packages"}
MIN_CHARS, MIN_WORDS = 50, 8
# Of a paragraph: letters and plain punctuation among the characters, and plain words.
PLAIN_CHARS, PLAIN_WORDS = 0.94, 0.85
# A paragraph of which more than this share of word sequences was read before is left out.
SEQUENCE, KNOWN = 5, 1 / 3

# A line of one sign of punctuation underlines the heading above it.
RULE = re.compile(r"([^\w\s])\1{2,}")
CODE = (">>>", "::", "\\", "{", "}", "|", "http", "==", "--", "__", "@")
# Roles, links and quotes of reStructuredText and Markdown, and what stays of them.
MARKUP = (
    (re.compile(r":[\w:.+-]+:`~?([^`<]*?)(?: *<[^`>]*>)?`"), r"\1"),
    (re.compile(r"\[`~?([^`]*)`\](\([^)]*\))?"), r"\1"),
    (re.compile(r"\[([^][]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"`+~?([^`<]*?)(?: <[^`>]*>)?`+_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)"), r"\1"),
)
# What an item of a list begins with: a bullet, a number, or "name (kind): ".
LEAD = re.compile(
    r"\s*(?:[-*+]\s+|\d+[.)]\s+|\[\d+\]\s+|"
    r"\*{0,2}\w+\*{0,2}(?:\s*\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s+(?=[A-Z]))"
)


def docstrings(source):
    """Yield docstrings of a module, its classes and functions, in source order."""
    with warnings.catch_warnings():
        # Old modules hold escapes that newer parsers warn of.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        yield ast.get_docstring(node, clean=False) or ""


def paragraphs(lines):
    """Yield runs of lines of one indentation, joined; items alone, headings not at all."""
    block, indent = [], None
    for line in [*lines, ""]:
        body, depth = line.strip(), len(line) - len(line.lstrip())
        if RULE.fullmatch(body):
            block = []
            continue
        lead = LEAD.match(line) if body else None
        if block and (not body or lead or indent not in (None, depth)):
            yield " ".join(" ".join(block).split())
            block = []
        if lead:
            block.append(line[lead.end() :])
        elif body:
            block.append(body)
        # An item goes on at an indentation of its own.
        indent = None if lead else depth


def sentences(lines):
    """Yield the paragraphs that are English sentences, without markup."""
    for text in paragraphs(lines):
        for pattern, kept in MARKUP:
            text = pattern.sub(kept, text)
        text = text.replace("`", "").strip()
        words = text.split()
        if (
            len(text) >= MIN_CHARS
            and len(words) >= MIN_WORDS
            and re.match("[A-Z][a-z' ]", text)
            and text.endswith((".", "!", "?"))
            and not any(sign in text for sign in CODE)
            and sum(c.isascii() and (c.isalpha() or c in " ,.'") for c in text)
            >= PLAIN_CHARS * len(text)
            and sum(word.strip(",.()'\"").isalpha() for word in words) >= PLAIN_WORDS * len(words)
        ):
            yield text


def is_new(text, known):
    """Return whether most word sequences of a paragraph are not yet known, and add them."""
    words = re.findall(r"\w+", text.lower())
    count = max(1, len(words) - SEQUENCE + 1)
    found = {tuple(words[i : i + SEQUENCE]) for i in range(count)}
    old = len(found & known)
    known |= found
    return old <= KNOWN * len(found)


def _modules(folder):
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for file in sorted(files):
            if file.endswith(".py") and not file.startswith("test_"):
                yield Path(root, file)


def folders(packages):
    """Return the folders of installed packages, none of which is imported.

    Raises ConfigError for one that is not installed.
    """
    found = []
    for name in packages:
        spec = util.find_spec(name) if str(name).isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"data.packages={list(packages)} names {name}, which is no package that is "
                "installed here: install it, or leave it out."
            )
        found.append(next(iter(spec.submodule_search_locations)))
    return found


def versions(packages):
    """Return the version of each package, for it decides the text."""
    owners = metadata.packages_distributions()
    return {
        name: [metadata.version(owner) for owner in sorted(set(owners.get(name, ())))]
        for name in packages
    }


def sources(packages=()):
    """Yield the texts of each help topic and module of Python, and of `packages`.

    In a fixed order. Raises ConfigError.
    """
    places = (sysconfig.get_path("stdlib"), *folders(packages))
    try:
        from pydoc_data.topics import topics
    except ImportError:  # trimmed distributions of Python
        topics = {}
    for key in sorted(topics):
        yield [topics[key]]
    for path in itertools.chain.from_iterable(map(_modules, places)):
        yield docstrings(path.read_bytes())


def documents(packages, clean):
    """Return the prose of Python's help topics, of its library and of `packages`.

    clean: what takes a text to a tidy one. Raises ConfigError.
    """
    known = set()
    found = (
        "\n".join(p for t in texts for p in sentences(clean(t).splitlines()) if is_new(p, known))
        for texts in sources(packages)
    )
    return [text for text in found if text]
