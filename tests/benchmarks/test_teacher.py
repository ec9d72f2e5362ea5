"""`benchmarks/teacher.py`: tables, and the whole of it on a tiny model."""

import math

import pytest
import teacher
import torch
from bench.tables import held_out, nats, tables
from safetensors.torch import load_file
from transformers import AutoTokenizer

from mdlm_mcd.checkpoints.files import read_json
from mdlm_mcd.evaluation.candidates import Source, open_model
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost


def test_tables_against_counting_by_hand():
    rows = torch.tensor([[0, 2, 3, 2, 1]])
    found = tables(rows, torch.tensor([[0, 2, 3, 3, 1]]), 5)
    # Bodies: 2 3 2, then 2 3 3; first and last tokens cost nothing, and five are counted.
    assert found["unigram"] == pytest.approx(-(math.log(3 / 8) + 2 * math.log(2 / 8)) / 5)
    costs = {
        k: -sum(math.log((n + k) / (1 + 5 * k)) for n in (1, 1, 0)) / 5 for k in (0.1, 0.3, 1, 5)
    }
    k = found["added"]
    assert found["bigram"] == pytest.approx(costs[k]) and costs[k] == min(costs.values())


def test_nats_of_models_that_know_nothing(compose):
    for name, counted in (("mdlm", 16), ("ar", 15)):
        config = compose(f"algo={name}")
        tokenizer = dataloader.get_tokenizer(config)
        model = minihost.model_class(config)(config, tokenizer).eval()  # zero logits
        rows = held_out(dataloader.get_dataset(config, tokenizer, "train"), 100)
        value, error = nats(model, rows)
        assert len(rows) == 100 and error < 1e-5
        assert value == pytest.approx(math.log(model.vocab_size - 1) * counted / 16, rel=1e-5)


def test_nats_are_the_nelbo(random_mdlm):
    rows = torch.randint(0, 250, (4000, 16))
    value, _ = nats(random_mdlm, rows)
    with torch.no_grad():
        assert value == pytest.approx(float(random_mdlm.nll(rows, None, None).mean()), rel=0.03)


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, corpus):
    small = f"""
        data=textfile data.cache_dir={tmp_path}/cache data.vocab_size=300
        trainer.max_steps=3 lr_scheduler.num_warmup_steps=1
        model.hidden_size=32 model.n_heads=2 model.n_blocks=1 model.length=16
    """.split()
    args = teacher.parsed([f"--out={tmp_path}", "--rows=20", f"data.files=[{corpus}]", *small])
    said = []
    found = teacher.run(args, said.append)
    assert found["tables"]["bigram"] < found["tables"]["unigram"]
    assert found["teacher"]["nats"] < found["tables"]["unigram"]  # at its third step
    assets = tmp_path / "assets"
    assert read_json(assets / "figures.json", None) == found
    assert "unigram table" in (assets / "README.md").read_text()
    for name in teacher.RECIPES:
        tensors = load_file(assets / name / "model.safetensors")
        assert tensors["backbone.output_layer.linear.weight"].dtype == torch.bfloat16
        assert len(AutoTokenizer.from_pretrained(assets / name)) == found["vocabulary"]
    opened = open_model(Source("teacher", str(assets / "teacher")))
    assert opened.length == 16 and opened.mask_index == found["vocabulary"]
    again = teacher.run(args, said.append)  # nothing is trained anew
    assert again == found
