"""The pictures, sampled once, and the files they make."""

import pytest

from mdlm_mcd.commands import figures


@pytest.fixture(scope="session")
def drawn():
    return {p.name: p for p in figures.pictures()}


@pytest.fixture(scope="session")
def folder(drawn, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "pictures", lambda *_: list(drawn.values()))
        files = figures.write(out / "new" / "folder")
    assert sorted(files) == sorted((out / "new" / "folder").iterdir())
    return out / "new" / "folder"
