import sys

import pytest

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, prose

TEXT = """Return the first of all values that are larger than the given one.

    Notes
    -----
    The search begins at the left end, and it ends as soon
    as the value is found.

    Parameters
    ----------
    x : array_like
        Values in which the function looks for the first larger one.

    Args:
        limit (`int`, *optional*): The value that has to be exceeded here,
            as in :func:`bisect.bisect` and in [`numpy.searchsorted`].

    - Items of a list begin a paragraph of their own, like this one.
    - Another item of the list that is a sentence as well.

    >>> first([1, 2], 1)
    2
    See ``other(x)[0] == 1`` for code that is left out of the text here.
    """
FOUND = [
    "Return the first of all values that are larger than the given one.",
    "The search begins at the left end, and it ends as soon as the value is found.",
    "Values in which the function looks for the first larger one.",
    "The value that has to be exceeded here, as in bisect.bisect and in numpy.searchsorted.",
    "Items of a list begin a paragraph of their own, like this one.",
    "Another item of the list that is a sentence as well.",
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, one of them with a test beside it."""
    folder = tmp_path / "textual_pkg"
    (folder / "tests").mkdir(parents=True)
    for name in ("__init__.py", "tests/c.py", "test_d.py"):
        (folder / name).write_text(f'"""{FOUND[0]}\n\n{FOUND[1]}"""\n')
    # A few other words are no news.
    (folder / "a.py").write_text(f'"""{FOUND[0].replace("first of", "last of")}"""\n')
    (folder / "b.py").write_text(f"def f():\n    '''{TEXT}'''\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(prose.sysconfig, "get_path", lambda name: str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    return "textual_pkg"


def test_a_document_is_a_module_and_nothing_is_said_twice(package):
    """Sentences stay, and code goes."""
    assert list(prose.sentences(corpus.dedented(TEXT).splitlines())) == FOUND
    found = prose.documents([package], corpus.dedented)
    assert found[-1] == "\n".join(FOUND[2:])
    assert "\n".join(found).count(FOUND[1]) == 1 and len(found) == 2
    assert package not in sys.modules  # read, not run
    assert prose.versions([package]) == {package: []}


def test_packages_that_are_not_there(tmp_path):
    for name in ("no_such_package", "../x", "ast"):
        with pytest.raises(ConfigError, match=r"data\.packages=.*no package that is installed"):
            corpus.prose_documents(tmp_path, [name])
