"""Patches: applied, reverted byte for byte, refused; the same as `git apply`."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import clones
import fakes
import pytest
from clones import contents

from mdlm_mcd import hosts, patches_dir
from mdlm_mcd.commands import main as cli
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import launch, patches, specs
from mdlm_mcd.hosts.specs import DUO, MDLM, SPECS

FOUND = clones.find()
MAIN = Path("main.py")
each = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def reformatted(text: str) -> str:
    """As a formatter leaves it: indented twice as far, in double quotes."""
    text = re.sub("^ +", lambda found: 2 * found[0], text, flags=re.M)
    return re.sub(" +$", "", text, flags=re.M).replace("'", '"')


def patchable(folder: Path, spec, newline="\n", change=str) -> Path:
    """Files in which the spec's patch fits, and little else."""
    texts: dict[Path, str] = {}
    for i, hunk in enumerate(patches.of(spec)):
        path = folder / hunk.file
        lines = [f"# before {i}", *hunk.without("+"), ""]
        texts[path] = texts.get(path, "") + "\n".join(lines)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = change(text) + "# no newline at the end"
        path.write_bytes(text.replace("\n", newline).encode())
    return folder


def git_apply(spec, folder):
    command = ["git", "apply", str(patches_dir() / spec.patch)]
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "GIT_DIR": "/nonexistent"})


@each
@pytest.mark.parametrize("change", [str, reformatted])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_apply_and_revert_byte_for_byte(spec, newline, change, tmp_path):
    host = patchable(tmp_path / "host", spec, newline, change)
    main = host / MAIN
    main.write_bytes(f"# mine{newline}".encode() + main.read_bytes() + b"# mine too")
    os.chmod(main, 0o754)
    before = contents(host)
    assert "would apply" in patches.patch(host, spec, check=True)
    assert contents(host) == before
    assert "applied" in patches.patch(host, spec)
    after = contents(host)
    assert after != before and set(after) == set(before) and b"_target_" in after[MAIN]
    if newline == "\r\n":
        assert all(t.count(b"\n") == t.count(b"\r\n") for t in after.values())
    else:  # the same as git, which finds the place by its context
        other = patchable(tmp_path / "git", spec)
        (other / MAIN).write_bytes(b"# mine\n" + (other / MAIN).read_bytes() + b"# mine too")
        git_apply(spec, other)
        # A new line has the patch's quotes, one in place of another the file's.
        wanted = {k: change(v.decode()).replace('"', "'") for k, v in contents(other).items()}
        assert wanted == {k: v.decode().replace('"', "'") for k, v in after.items()}
    # Idempotent, both ways.
    assert "nothing to apply" in patches.patch(host, spec)
    assert "would revert" in patches.patch(host, spec, check=True, revert=True)
    assert contents(host) == after
    assert "reverted" in patches.patch(host, spec, revert=True)
    assert "nothing to revert" in patches.patch(host, spec, revert=True)
    assert contents(host) == before and main.stat().st_mode & 0o777 == 0o754


@each
def test_conflicting_edits_are_left_alone(spec, tmp_path):
    """Also when only the last file or block is the user's: nothing is half done."""
    host = patchable(tmp_path, spec)
    hunk = patches.of(spec)[-1]
    path, line = host / hunk.file, hunk.without("+")[1]
    text = path.read_text()
    # Changed; indented alone, which is no formatter's work; there twice.
    edited = text.replace(line, f"{line}  # mine"), text.replace(line, f"  {line}")
    for other in (*edited, f"{text}\n{text}"):
        path.write_text(other)
        before = contents(host)
        for options in ({}, {"check": True}, {"revert": True}):
            with pytest.raises(ConfigError, match=rf"other lines .*{spec.patch}.*{hunk.file}"):
                patches.patch(host, spec, **options)
        assert contents(host) == before


@pytest.mark.parametrize(
    "fails",
    [
        [(Path, "write_bytes")],
        [(Path, "write_bytes"), (Path, "unlink")],  # on a disk that is only read
        [(os, "replace")],
    ],
)
def test_after_a_failure_the_same_command_goes_on(tmp_path, monkeypatch, fails):
    """Each file is the old one or the new one, and the other half can be patched later."""
    host = patchable(tmp_path, MDLM)
    before, after = contents(host), patches.changes(host, MDLM)
    second, first = after

    def failing(real):
        def call(path, *rest):
            if first in str(path):
                raise OSError(28, "No space left on device")
            return real(path, *rest)

        return call

    with monkeypatch.context() as patched:
        for place, name in fails:
            patched.setattr(place, name, failing(getattr(place, name)))
        with pytest.raises(ConfigError, match="No space left.*mdlm-mcd run"):
            patches.patch(host, MDLM)
    assert contents(host) == before | {Path(second): after[second]}
    assert f"applied mdlm.patch ({first})" in patches.patch(host, MDLM)
    assert contents(host) == {Path(k): v for k, v in after.items()}


@each
def test_a_change_by_hand_is_as_good_as_the_patch(spec, tmp_path, monkeypatch):
    """The remedy of the refusal, in other words; and `run` takes no interest in configs."""
    host = patchable(tmp_path, spec)
    for file in spec.sources:
        (host / file).write_text(source(spec))
    for path in (host / MAIN, host / "configs" / "config.yaml"):
        if path.is_file():
            path.write_text(path.read_text().replace("  ", "    # mine\n  "))
    with pytest.raises(ConfigError, match="other lines"):
        launch.prepare(host)
    text = (host / MAIN).read_text() + "\ncls = hydra.utils.get_class(config.algo._target_)\n"
    (host / MAIN).write_text(text)
    before = contents(host)
    assert launch.prepare(host) == (spec, text, False)
    if spec is DUO:
        assert "nothing to apply" in patches.patch(host, spec)
    assert contents(host) == before


def test_links_stay_links(tmp_path):
    host = patchable(tmp_path / "host", DUO)
    real = (host / MAIN).rename(tmp_path / "real_main.py")
    (host / MAIN).symlink_to(real)
    patches.patch(host, DUO)
    assert (host / MAIN).is_symlink() and b"_target_" in real.read_bytes()


def test_the_command(tmp_path, capsys):
    host = fakes.duo(tmp_path)
    before = contents(host)
    for options, words in (
        (["--check"], "would apply duo.patch (main.py)"),
        ([], "applied duo.patch"),
        (["--revert"], "reverted"),
    ):
        assert cli.main(["patch", str(host), *options]) == 0
        assert words in capsys.readouterr().out
    assert contents(host) == before
    (host / "algo.py").write_text("import x\ndef (\n")
    assert cli.main(["patch", str(host)]) == 1
    assert re.search(r"algo\.py cannot be read as Python.*line 2", capsys.readouterr().err)
    (host / "trainer_base.py").unlink()
    assert cli.main(["patch", str(host)]) == 1
    words = "for Duo's spec it lacks trainer_base.py; for MDLM's spec it lacks diffusion.py"
    assert words in capsys.readouterr().err


def source(spec, name=None, parameters=None) -> str:
    """A module of models that a spec fits, but for one method: others have more to give."""
    given = {n: ", ".join((*p, "more=None")) for n, p in spec.needed.items()} | {name: parameters}
    methods = [f"  def {n}(self, {p}): pass" for n, p in given.items() if n and p is not None]
    return "\n".join([f"class {spec.models['subs']}:", *methods, ""])


# What forks put in place of a method: blocks and contexts, under the family's own names.
@pytest.mark.parametrize(
    "spec, name, parameters, words",
    [
        (DUO, "_process_sigma", None, "it lacks MDLM._process_sigma"),
        (
            DUO,
            "forward",
            "*, xt: int = 0, sigma",
            "MDLM.forward(xt, sigma, ...) but (*, xt, sigma)",
        ),
        (DUO, "nll", "tokens, *, x0", "MDLM.nll(x0, ...) but (tokens, *, x0)"),
        (MDLM, "q_xt", "x, p, b=None", "Diffusion.q_xt(x, move_chance, ...) but (x, p, b)"),
    ],
)
def test_a_false_friend_is_refused_by_what_differs(
    spec, name, parameters, words, tmp_path, monkeypatch
):
    """On disk and loaded, where the family itself passes."""
    (tmp_path / "main.py").touch()
    for file in spec.sources:
        (tmp_path / file).write_text(source(spec))
    assert specs.of_folder(tmp_path) is spec
    for file in spec.sources:
        (tmp_path / file).write_text(source(spec, name, parameters))
    with pytest.raises(ConfigError, match=re.escape(words)):
        specs.of_folder(tmp_path)
    monkeypatch.delitem(sys.modules, "mdlm_mcd.minihost.algo", raising=False)
    module = types.ModuleType(spec.modules[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source(spec), vars(module))
    assert hosts.detect() == (spec, module)
    exec(source(spec, name, parameters), vars(module))
    with pytest.raises(ConfigError, match=re.escape(words.removeprefix("it "))):
        hosts.detect()


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
    git_apply(host.spec, host.folder)
    assert contents(host.folder) == after
