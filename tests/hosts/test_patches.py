"""Patches: applied, reverted byte for byte, refused; the same as `git apply`."""

import os
import subprocess
from pathlib import Path

import clones
import fakes
import pytest

from mdlm_mcd import patches_dir
from mdlm_mcd.commands import main as cli
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import patches, specs
from mdlm_mcd.hosts.specs import DUO, MDLM, SPECS

FOUND = clones.find()
each = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@each
def test_a_patch_changes_a_few_lines_and_is_described(spec):
    lines = (patches_dir() / spec.patch).read_text("utf-8").splitlines()
    changed = [x for x in lines if x[:1] in "+-" and x[:3] not in ("+++", "---") and x]
    assert 0 < len(changed) <= 12
    # Generic: it could be offered upstream.
    assert "mcd" not in "".join(lines)
    assert spec.patch in (patches_dir() / "README.md").read_text("utf-8")


@each
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_apply_and_revert_byte_for_byte(spec, newline, tmp_path):
    host = fakes.patchable(tmp_path / "host", spec, newline)
    main = host / "main.py"
    main.write_bytes(f"# mine{newline}".encode() + main.read_bytes() + b"# mine too")
    os.chmod(main, 0o754)
    before = contents(host)
    assert "would apply" in patches.patch(host, spec, check=True)
    assert contents(host) == before
    assert "applied" in patches.patch(host, spec)
    after = contents(host)
    assert after != before and set(after) == set(before)
    assert b"_target_" in after[Path("main.py")]
    if newline == "\r\n":
        assert all(t.count(b"\n") == t.count(b"\r\n") for t in after.values())
    else:  # the same as git, which finds the place by its context
        other = fakes.patchable(tmp_path / "git", spec, newline)
        (other / "main.py").write_bytes(before[Path("main.py")])
        subprocess.run(["git", "init", "-q"], cwd=other, check=True)
        subprocess.run(["git", "apply", str(patches_dir() / spec.patch)], cwd=other, check=True)
        assert all((other / path).read_bytes() == text for path, text in after.items())
    # Idempotent, both ways.
    assert "nothing to apply" in patches.patch(host, spec)
    assert "would revert" in patches.patch(host, spec, check=True, revert=True)
    assert contents(host) == after
    assert "reverted" in patches.patch(host, spec, revert=True)
    assert "nothing to revert" in patches.patch(host, spec, revert=True)
    assert contents(host) == before
    assert main.stat().st_mode & 0o777 == 0o754


@each
def test_conflicting_edits_are_left_alone(spec, tmp_path):
    """Also when only the last file or block is the user's: nothing is half done."""
    host = fakes.patchable(tmp_path, spec)
    hunk = patches.of(spec)[-1]
    line = hunk.before.splitlines()[2]
    path = host / hunk.file
    path.write_bytes(path.read_bytes().replace(line, line + b"  # mine"))
    before = contents(host)
    for options in ({}, {"check": True}, {"revert": True}):
        with pytest.raises(ConfigError, match=rf"local edits .*{hunk.file}.*{spec.patch}"):
            patches.patch(host, spec, **options)
    assert contents(host) == before


@pytest.mark.parametrize("fails", ["write_bytes", "replace"])
def test_after_a_failure_the_same_command_goes_on(tmp_path, monkeypatch, fails):
    """Each file is the old one or the new one, and the other half can be patched later."""
    host, whole = (fakes.patchable(tmp_path / name, MDLM) for name in ("host", "whole"))
    before, (second, first) = contents(host), patches.changes(host, MDLM)
    patches.patch(whole, MDLM)
    place = Path if fails == "write_bytes" else os
    real = getattr(place, fails)

    def failing(path, *rest):
        if first in str(path):
            raise OSError(28, "No space left on device")
        return real(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(place, fails, failing)
        with pytest.raises(ConfigError, match="No space left.*mdlm-mcd run"):
            patches.patch(host, MDLM)
    half = contents(host)
    assert half == before | {Path(second): contents(whole)[Path(second)]}
    assert f"applied mdlm.patch ({first})" in patches.patch(host, MDLM)
    assert contents(host) == contents(whole)


def test_links_stay_links(tmp_path):
    host = fakes.patchable(tmp_path / "host", DUO)
    real = tmp_path / "real_main.py"
    (host / "main.py").rename(real)
    (host / "main.py").symlink_to(real)
    patches.patch(host, DUO)
    assert (host / "main.py").is_symlink() and b"_target_" in real.read_bytes()


def test_the_command(tmp_path, capsys):
    host = fakes.duo(tmp_path)
    before = contents(host)
    for options, words in (
        (["--check"], "would apply duo.patch (main.py)"),
        ([], "applied duo.patch"),
        ([], "nothing to apply"),
        (["--revert"], "reverted"),
    ):
        assert cli.main(["patch", str(host), *options]) == 0
        assert words in capsys.readouterr().out
    assert contents(host) == before
    (host / "trainer_base.py").unlink()
    assert cli.main(["patch", str(host)]) == 1
    printed = capsys.readouterr().err
    assert "for Duo's spec it lacks trainer_base.py" in printed
    assert "for MDLM's spec it lacks diffusion.py" in printed


def test_a_layout_is_what_it_offers(tmp_path):
    host = fakes.duo(tmp_path)
    assert specs.of_folder(host) is DUO
    for name in ("trainer_base.py", "algo.py"):  # algo.py defines one of its own, for AR
        text = (host / name).read_text()
        (host / name).write_text(text.replace("def _process_sigma", "def _x"))
    with pytest.raises(ConfigError, match=r"it lacks MDLM\._process_sigma"):
        specs.of_folder(host)
    (host / "algo.py").write_text("def broken(:\n")
    with pytest.raises(ConfigError, match=r"algo\.py cannot be read as Python"):
        specs.of_folder(host)
    (host / "main.py").unlink()
    with pytest.raises(ConfigError, match=r"main\.py cannot be read"):
        patches.changes(host, DUO)


@pytest.mark.hosts
@pytest.mark.parametrize("name", clones.EXPECTED)
def test_the_patches_fit_the_real_hosts(name, tmp_path):
    if name not in FOUND:
        pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
    host = clones.copy(name, FOUND[name], tmp_path / "host", tmp_path, tmp_path)
    before = contents(host.folder)
    patches.patch(host.folder, host.spec)
    after = contents(host.folder)
    patches.patch(host.folder, host.spec, revert=True)
    assert contents(host.folder) == before
    subprocess.run(
        ["git", "apply", str(patches_dir() / host.spec.patch)],
        cwd=host.folder,
        check=True,
        env={**os.environ, "GIT_DIR": "/nonexistent"},
    )
    assert contents(host.folder) == after
