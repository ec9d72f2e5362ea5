"""The patches: small, and they fit the real hosts they are for."""

import os
import subprocess
from pathlib import Path

import pytest

PATCHES = sorted((Path(__file__).resolve().parents[1] / "patches").glob("*.patch"))


@pytest.mark.parametrize("path", PATCHES, ids=lambda p: p.name)
def test_a_patch_changes_a_few_lines(path):
    lines = path.read_text("utf-8").splitlines()
    changed = [
        line
        for line in lines
        if line[:1] in "+-" and not line.startswith(("+++", "---")) and line
    ]
    assert 0 < len(changed) <= 12
    assert path.name in (path.parent / "README.md").read_text("utf-8")


@pytest.mark.hosts
def test_the_duo_patch_fits_every_duo_clone(tmp_path):
    where = os.environ.get("MDLM_MCD_HOSTS")
    clones = sorted(Path(where).glob("*/trainer_base.py")) if where else []
    if not clones:
        pytest.skip("no Duo clone found: set MDLM_MCD_HOSTS to a folder with clones")
    (patch,) = (p for p in PATCHES if p.name == "duo.patch")
    for clone in (p.parent for p in clones):
        host = tmp_path / clone.name
        host.mkdir()
        before = (clone / "main.py").read_text("utf-8")
        (host / "main.py").write_text(before)
        subprocess.run(["git", "apply", str(patch)], cwd=host, check=True)
        after = (host / "main.py").read_text("utf-8")
        assert "get_class(config.algo._target_)" in after
        subprocess.run(["git", "apply", "-R", str(patch)], cwd=host, check=True)
        assert (host / "main.py").read_text("utf-8") == before
