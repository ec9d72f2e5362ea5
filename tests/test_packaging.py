"""The package as a user installs it: wheel and editable, found by Hydra anywhere."""

import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

APP = """
import sys
import hydra
from omegaconf import OmegaConf

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    print(OmegaConf.to_yaml(config))
    print("torch imported:", "torch" in sys.modules)

main()
"""


def call(*command, cwd):
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_configs_and_plugin(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "mdlm_mcd/py.typed",
        "mdlm_mcd/configs/algo/mcd.yaml",
        "mdlm_mcd/configs/recipe/mcd_paper.yaml",
        "mdlm_mcd/minihost/configs/config.yaml",
        "mdlm_mcd/minihost/configs/algo/mdlm.yaml",
        "mdlm_mcd/commands/figures/animation.svg",
        "mdlm_mcd/commands/model_card.md",
        "mdlm_mcd/models/hf/configuration_mdlm.py",
        "mdlm_mcd/models/hf/modeling_mdlm.py",
        "mdlm_mcd/evaluation/report/page.html",
        "mdlm_mcd/evaluation/report/tables.html",
        "mdlm_mcd/evaluation/report/style.css",
        "mdlm_mcd/evaluation/report/published.json",
        "hydra_plugins/mdlm_mcd_searchpath.py",
    } <= names
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "docs"))]
    # A namespace package: with an __init__ of ours, other plugins would vanish.
    assert "hydra_plugins/__init__.py" not in names


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, wheel, tmp_path_factory):
    """A venv of its own with the package in it; its dependencies are ours."""
    folder = tmp_path_factory.mktemp(request.param)
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # As plain path entries: the .pth files in there, ours among them, stay unread.
    paths = {sysconfig.get_path(k) for k in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("\n".join(paths))
    what = [wheel] if request.param == "wheel" else ["--no-build-isolation", "-e", ROOT]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    call(*pip, "--no-deps", "--no-index", "--ignore-installed", *what, cwd=folder)
    where = call(python, "-c", "import mdlm_mcd; print(mdlm_mcd.__file__)", cwd=folder).strip()
    inside = Path(where).is_relative_to(folder)
    assert inside == (request.param == "wheel")
    return python


def test_any_hydra_application_finds_our_configs(installed, tmp_path):
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [algo: own]\n")
    (tmp_path / "conf" / "algo" / "own.yaml").write_text("name: own\n")
    (tmp_path / "app.py").write_text(APP)
    out = call(installed, "app.py", "algo=mcd", cwd=tmp_path)
    assert "_target_: mdlm_mcd.hosts.MCD" in out and "predictor: sparse" in out
    # Hydra imports the plugin at each start of every application: it stays light.
    assert "torch imported: False" in out
    assert "name: own" in call(installed, "app.py", cwd=tmp_path)


def test_the_hosts_own_configs_win_name_clashes(installed, tmp_path):
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [algo: mcd]\n")
    (tmp_path / "conf" / "algo" / "mcd.yaml").write_text("name: the host's\n")
    (tmp_path / "app.py").write_text(APP)
    out = call(installed, "app.py", cwd=tmp_path)
    assert "name: the host's" in out and "_target_" not in out


def test_the_minihost_composes_from_any_folder(installed, tmp_path):
    given = ("algo=mcd", "+recipe=mcd_paper", "algo.loss=kl_fwd", "--cfg", "job")
    out = call(installed, "-m", "mdlm_mcd.minihost.main", *given, cwd=tmp_path)
    for line in ("loss: kl_fwd", "max_steps: 50000", "lr: 6.0e-05", "ema: 0.999"):
        assert line in out
    assert not list(tmp_path.iterdir())


def test_the_entry_point_names_the_plugin():
    (point,) = [p for p in entry_points(group="hydra.plugins") if p.name == "mdlm_mcd"]
    assert point.load().MDLMMCDSearchPathPlugin


def test_the_command_helps_without_torch(installed, tmp_path):
    code = (
        "import sys; from mdlm_mcd.commands import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    out = call(installed, "-c", code, cwd=tmp_path)
    assert "demo" in out and out.strip().endswith("False")
