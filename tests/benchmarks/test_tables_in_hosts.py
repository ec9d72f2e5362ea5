"""A table's chain through the real hosts, tiny; see tests/hosts/test_clones.py.

The clone trains and, for uniform-state models, samples; `mdlm-mcd` does the rest.
"""

import json
from dataclasses import replace

import pytest
from hosts import clones
from paper import check, command
from paper.chain import Chain
from paper.experiments import RUNS, TABLES

from mdlm_mcd.hosts.specs import DUO

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()


@pytest.fixture(scope="module")
def assets(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("assets")
    clones.make_assets(out, corpus.read_text("utf-8").split("\n\n\n"))
    return out


@pytest.mark.parametrize("name", clones.EXPECTED)
def test_a_chain_through_a_clone(name, assets, corpus, tmp_path, monkeypatch):
    if name not in FOUND:
        pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(key, "1")
    clone = clones.copy(name, FOUND[name], tmp_path / "clone", assets, tmp_path)
    folder, _ = clone.run("teacher", *clone.own, "trainer.max_steps=4", memory=True)
    flags = ["--teacher", folder / "checkpoints" / "last.ckpt", "--methods", "mcd,sdtt"]
    if clone.layout is DUO:
        own = ["algo=duo_base", "sampling.predictor=ancestral", "trainer.max_steps=4"]
        folder, _ = clone.run("duo", *own, memory=True)
        flags[-1] += ",dcd"
        flags += ["--duo-teacher", folder / "checkpoints" / "last.ckpt"]
    flags += ["--out", tmp_path / "out", "--host", clone.folder, "--cache", assets / "data"]
    flags += ["--held-out", corpus, "--evaluator", assets / "gpt2", "--device", "cpu"]
    small = {"--num-samples": 2, "--bound-rows": 2, "--batch-size": 2, "--devices": 1}
    flags += [word for pair in small.items() for word in pair]
    given = command.parsed(TABLES["table1"], [*map(str, flags)])
    given.overrides = clone.tiny()
    # dcd's own gamma_max is for vocabularies from about 500 tokens up.
    dcd = RUNS["dcd"]
    monkeypatch.setitem(RUNS, "dcd", replace(dcd, overrides=(*dcd.overrides, "++algo.gamma_max=2")))
    table = replace(TABLES["table1"].chosen(given.methods), rounds=(1, 2), steps=(2,))
    check.ready(table, given)
    times = []
    for _ in range(2):  # and nothing is done again
        chain = Chain(table, given)
        chain.per_round = 2
        text = chain.run()
        times.append(chain.results.stat().st_mtime_ns)
    assert times[0] == times[1]
    rows = [json.loads(x) for x in chain.results.open()]
    assert {r["model"] for r in rows} == {
        "teacher",
        *(f"{m} round {k}" for m in ("MCD", "SDTT") for k in (1, 2)),
    }
    if clone.layout is DUO:
        line = next(x for x in text.splitlines() if x.startswith("| Duo round 2 |"))
        assert line.count(" / ") == 1
