"""The package as a user installs it: a wheel whose configs Hydra finds anywhere."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from mdlm_mcd import __version__

ROOT = Path(__file__).resolve().parents[1]

# Three applications, of which two have an `algo` of their own.
APPS = """
import sys
from importlib.metadata import entry_points
import hydra
from hydra.core.global_hydra import GlobalHydra

def composed(folder, *given):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(f"{sys.argv[1]}/{folder}", version_base=None):
        return hydra.compose("config", list(given))

import mdlm_mcd
(point,) = [p for p in entry_points(group="hydra.plugins") if p.name == "mdlm_mcd"]
assert point.load().MDLMMCDSearchPathPlugin
assert mdlm_mcd.__file__.startswith(sys.path[0])
config = composed("own", "algo=mcd")
assert config.algo._target_ == "mdlm_mcd.hosts.MCD" and config.sampling.predictor == "sparse"
assert composed("own") == {"algo": {"name": "own"}}
assert composed("clash") == {"algo": {"name": "the host's"}}  # the host's own configs win
# Hydra imports the plugin at each start of every application: it stays light.
from mdlm_mcd.commands import main as cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
GlobalHydra.instance().clear()
with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
    config = hydra.compose("config", ["algo=mcd", "+recipe=mcd_paper", "algo.loss=kl_fwd"])
assert config.algo.loss == "kl_fwd" and config.trainer.max_steps == 50_000
assert config.optim.lr == 6e-5 and config.training.ema == 0.999
assert "torch" not in sys.modules
"""


def call(*command, cwd):
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built out of it alone."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


ASSETS = {f"mdlm_mcd/assets/{name}/model.safetensors" for name in ("teacher", "judge")}
ASSETS |= {f"mdlm_mcd/assets/text/{name}.txt" for name in ("train", "valid")}


def test_the_wheel_holds_configs_plugin_and_models(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mdlm_mcd/py.typed", "hydra_plugins/mdlm_mcd_searchpath.py"} | ASSETS <= names
    # All that is in the package's folder; configs and patches go into it.
    for source, target in (("mdlm_mcd", "mdlm_mcd"), ("configs", "mdlm_mcd/configs")):
        files = (p for p in (ROOT / source).rglob("*.*") if "__pycache__" not in p.parts)
        files = {f"{target}/{p.relative_to(ROOT / source).as_posix()}" for p in files}
        assert len(files) > 20 and files <= names, files - names
    assert {n.split("/")[0] for n in names} - {f"mdlm_mcd-{__version__}.dist-info"} == {
        "mdlm_mcd",
        "hydra_plugins",
    }
    # A namespace package: with an __init__ of ours, other plugins would vanish.
    assert "hydra_plugins/__init__.py" not in names


def test_the_wheel_knows_its_version_and_extras(wheel):
    path = f"mdlm_mcd-{__version__}.dist-info/METADATA"
    metadata = message_from_bytes(zipfile.ZipFile(wheel).read(path))
    assert metadata["Version"] == __version__
    extras = {"browser", "data", "demo", "docs", "evaluator", "flash", "mauve", "test"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    questions = (ROOT / "docs" / "faq.md").read_text("utf-8")
    assert all(f"| `{extra}` |" in questions for extra in extras - {"test"})
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_sdist_holds_what_documents_and_tests_it(built):
    (path,) = built.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(path).getnames()}
    files = "README.md CHANGELOG.md CITATION.cff LICENSE Makefile mkdocs.yml constraints.txt"
    files += " docs/index.md tests/conftest.py benchmarks/quality.py patches/duo.patch"
    assert set(files.split()) | ASSETS <= names
    folders = {name.split("/")[0] for name in names if "/" in name}
    known = {"benchmarks", "configs", "docs", "hydra_plugins", "mdlm_mcd", "patches", "tests"}
    assert folders - {".github"} == known


def test_any_hydra_application_finds_our_configs(wheel, tmp_path):
    """Installed as a wheel, beside our dependencies; the checkout is not on the path."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for folder, name, text in (("own", "own", "own"), ("clash", "mcd", "the host's")):
        (tmp_path / "apps" / folder / "algo").mkdir(parents=True)
        (tmp_path / "apps" / folder / "config.yaml").write_text(f"defaults: [algo: {name}]\n")
        (tmp_path / "apps" / folder / "algo" / f"{name}.yaml").write_text(f"name: {text}\n")
    # Without `site` the .pth files of this environment, ours among them, stay unread.
    paths = [str(tmp_path / "site"), *{sysconfig.get_path(k) for k in ("purelib", "platlib")}]
    code = f"import sys; sys.path[:0] = {paths}\n{APPS}"
    call(sys.executable, "-I", "-S", "-c", code, tmp_path / "apps", cwd=tmp_path)
