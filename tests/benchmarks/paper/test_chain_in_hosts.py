"""A table's chain through the real hosts, tiny; see tests/hosts/test_clones.py.

The clone trains and, for uniform-state models, samples; `mdlm-mcd` does the rest.
"""

import json
from dataclasses import replace

import pytest
from hosts import clones

from mdlm_mcd.hosts.specs import DUO

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()


@pytest.fixture(scope="module")
def assets(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("assets")
    clones.make_assets(out, corpus.read_text("utf-8").split("\n\n\n"))
    return out


@pytest.mark.parametrize("name", clones.EXPECTED)
def test_a_chain_through_a_clone(paper, name, assets, corpus, tmp_path, monkeypatch):
    if name not in FOUND:
        pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(key, "1")
    clone = clones.copy(name, FOUND[name], tmp_path / "clone", assets, tmp_path)
    folder, _ = clone.run("teacher", *clone.own, "trainer.max_steps=4", memory=True)
    teachers = {"teacher": str(folder / "checkpoints" / "last.ckpt")}
    methods = "mcd,sdtt"
    if clone.layout is DUO:
        own = ["algo=duo_base", "sampling.predictor=ancestral", "trainer.max_steps=4"]
        folder, _ = clone.run("duo", *own, memory=True)
        teachers["duo_teacher"] = str(folder / "checkpoints" / "last.ckpt")
        methods += ",dcd"
    given = paper.chain.Setting(
        tmp_path / "out",
        host=clone.folder,
        cache=f"{assets}/data",
        held_out=(str(corpus),),
        evaluator=f"{assets}/gpt2",
        num_samples=2,
        bound_rows=2,
        batch_size=2,
        device="cpu",
        devices=1,
        overrides=tuple(clone.tiny()),
        **teachers,
    )
    table = paper.experiments.table("table1").chosen(methods)
    # dcd's own gamma_max is for vocabularies from about 500 tokens up.
    dcd = paper.experiments.RUNS["dcd"]
    small = replace(dcd, overrides=(*dcd.overrides, "++algo.gamma_max=2"))
    monkeypatch.setitem(paper.experiments.RUNS, "dcd", small)
    table = replace(table, rounds=(1, 2), steps=(2,))
    paper.check.ready(table, given)
    chain = paper.chain.Chain(table, given)
    chain.per_round = 2
    text = chain.run()
    rows = [json.loads(x) for x in chain.results.open()]
    assert {(r["model"], r["steps"]) for r in rows} == {
        (model, n)
        for model in ("teacher", *(f"{m} round {k}" for m in ("MCD", "SDTT") for k in (1, 2)))
        for n in (2,)
    }
    if "dcd" in methods:
        line = next(x for x in text.splitlines() if x.startswith("| Duo round 2 |"))
        assert line.count(" / ") == 1
    before = chain.results.stat().st_mtime_ns
    again = paper.chain.Chain(table, given)
    again.per_round = 2
    assert again.run() == text
    assert chain.results.stat().st_mtime_ns == before
