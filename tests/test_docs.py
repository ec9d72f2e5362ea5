"""What the documents say is so: blocks run, links hold, names exist."""

import importlib
import json
import os
import re
import subprocess
import sys

import documents
import pytest
import torch
from documents import PAGES, ROOT

from mdlm_mcd.hosts import stubs

DOCS = ROOT / "docs"


def by_name(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.mark.parametrize("page", by_name(PAGES))
def test_every_command_of_a_page_could_be_given(page):
    for block in documents.blocks(page):
        assert block.language in ("python", "sh", "text"), block
        for words in documents.commands(block.text) if block.language == "sh" else ():
            documents.check(words)


def runs_anything(page):
    blocks = documents.blocks(page)
    words = [w for b in blocks if b.language == "sh" for c in documents.commands(b.text) for w in c]
    return "mdlm-mcd" in words or "mdlm_mcd.minihost.main" in words or "python" in dict(blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", by_name(filter(runs_anything, PAGES)))
def test_the_blocks_of_a_page_run(page, shell, compose, corpus, runs, tmp_path, monkeypatch):
    """In order, in one folder, tiny; `documents.NOT_RUN` names what is left out, and why."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    session = documents.Session(tmp_path, (*compose.tiny,), runs, corpus)
    for block in documents.blocks(page):
        session.run(block)


@pytest.mark.slow
def test_held_out_text_of_openwebtext(tmp_path):
    """A folder of its name is in the Hub's place, which nothing here can reach."""
    pytest.importorskip("datasets", reason="no datasets: pip install 'mdlm-mcd[data]'")
    rows = [json.dumps({"text": f"Document {i}."}) for i in range(2001)]
    (tmp_path / "Skylion007/openwebtext").mkdir(parents=True)
    (tmp_path / "Skylion007/openwebtext/train.jsonl").write_text("\n".join(rows))
    (block,) = (b for b in documents.blocks(DOCS / "paper_setting.md") if "python -c" in b.text)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "HF_HOME": str(tmp_path / "hub")}
    subprocess.run(["bash", "-c", block.text], cwd=tmp_path, env=env, check=True)
    found = (tmp_path / "held_out.txt").read_text("utf-8").rstrip("\n").split("\n\n\n")
    assert len(found) == 2000 and found[0] == "Document 1."


def test_the_step_of_algorithm_1_in_the_documents():
    blocks = [b for b in documents.blocks(DOCS / "paper.md") if b.language == "python"]
    scope: dict = {}
    for block in blocks:
        exec(block.text, scope)
    assert scope["loss"].shape == (8, 128) and scope["loss"].isfinite().all()
    assert scope["round_"].index == 1
    assert torch.equal(scope["loss"] == 0, ~scope["pair"].masked_t)


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", by_name(PAGES))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            path, _, place = target.partition("#")
            there = (page.parent / path) if path else page
            assert there.exists(), target
            titles = re.findall(r"^#+ (.*)", there.read_text("utf-8"), re.M) if place else []
            assert not place or place in map(anchor, titles), target


def test_the_site_has_every_page_and_at_most_twenty_in_its_menu():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    menu = re.findall(r"^      - .*: ([\w/]+\.md)$", text.partition("\nnav:")[2], re.M)
    hidden = re.findall(r"^  /([\w/.]+)$", text.partition("not_in_nav: |")[2], re.M)
    assert len(menu) == len(set(menu)) <= 20 and len((DOCS / "index.md").read_text("utf-8")) > 0
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert name in menu or name.startswith(tuple(hidden)), name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def keys(file, section):
    text = (ROOT / file).read_text("utf-8").partition(f"\n{section}:\n")[2]
    text = re.split(r"^\w|^# All rounds", text, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^  (\w+):", text, re.MULTILINE))


def test_every_key_of_an_algo_is_in_its_page():
    page, seen = (DOCS / "choosing_a_loss.md").read_text("utf-8"), {"_target_", "name"}
    for path in [p for of in ("algo", "distiller") for p in (ROOT / "configs" / of).glob("*.yaml")]:
        for key in keys(f"configs/{path.parent.name}/{path.name}", "algo") - seen:
            assert f"`algo.{key}`" in page, key
            seen.add(key)
    assert {"loss", "u_law", "head_chunk", "guard", "draws"} <= seen


def test_every_group_and_option_is_somewhere():
    questions = (DOCS / "faq.md").read_text("utf-8")
    for path in (ROOT / "mdlm_mcd/minihost/configs").glob("*/*.yaml"):
        if len(list(path.parent.iterdir())) > 1:
            assert re.search(rf"^\| `{path.parent.name}`.*`{path.stem}`", questions, re.M), path
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    for key in keys("configs/sampler/sparse.yaml", "sampling"):
        assert re.search(rf"`(sampling\.)?{key}\b", pages), key


@pytest.mark.parametrize("page", by_name(PAGES))
def test_names_in_the_documents_exist(page):
    """`module.name` in backticks is a thing of this package, or a key of `sampling`."""
    known = {"semi_ar"} | keys("configs/sampler/sparse.yaml", "sampling")  # a real host's; ours
    known |= keys("mdlm_mcd/minihost/configs/config.yaml", "sampling")
    assert {"predictor", "u_law", "use_float64"} <= known
    modules = "coupling|curriculum|losses|laws|duality|head|sampling|distillers"
    for module, names in re.findall(rf"`({modules})\.([\w.]+)", page.read_text("utf-8")):
        if module != "sampling" or names not in known:
            thing = importlib.import_module(f"mdlm_mcd.{module}")
            for name in names.rstrip(".").split("."):
                thing = getattr(thing, name)


def test_what_is_written_about_machines_without_cuda_is_so():
    text = (DOCS / "hosts.md").read_text("utf-8")
    assert set(re.findall(r"stubs\.(\w+)\(", text)) <= set(stubs.__all__)
    for override in stubs.default_overrides():
        assert f"`{override.partition('=')[0]}`" in text, override
