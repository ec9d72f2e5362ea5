"""The teacher, the judge and the text that are shipped are those of their card, and open."""

import logging

import documents
import pytest
from safetensors.torch import load_file
from transformers import PretrainedConfig

from mdlm_mcd.checkpoints import identity
from mdlm_mcd.checkpoints.files import ASSETS, SHIPPED, read_json
from mdlm_mcd.commands import sweep
from mdlm_mcd.evaluation.candidates import Source, held_out, open_model
from mdlm_mcd.minihost import corpus, dataloader
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost.paths import make_absolute


@pytest.fixture(scope="module")
def teacher():
    return open_model(Source("teacher", "mdlm-mcd/teacher"))


def test_the_weights_are_those_of_the_card():
    figures, card = read_json(ASSETS / "figures.json", {}), (ASSETS / "README.md").read_text()
    for name in ("teacher", "judge"):
        tensors = load_file(ASSETS / name / "model.safetensors")
        assert identity.sha256(tensors) == figures[name]["sha256"]
        assert figures[name]["sha256"] in card and f"{figures[name]['nats']:.3f}" in card
        assert figures[name]["nats"] < figures["tables"]["bigram"] - 0.2
        assert 2e6 < figures[name]["parameters"] < 6e6
    size = sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors"))
    assert size < 12e6


def test_teacher_and_judge_open_by_name_and_know_the_text(teacher):
    source = Source("teacher", "mdlm-mcd/teacher")
    rows = held_out(source, teacher, 64, ())
    assert rows.shape == (64, 64) and (teacher.vocab_size, teacher.mask_index) == (2049, 2048)
    judge = sweep.evaluator("mdlm-mcd/judge", "cpu", 16, teacher)
    scores, bigram = judge.nll(rows), read_json(ASSETS / "figures.json", {})["tables"]["bigram"]
    assert float((scores.nats / scores.tokens).mean()) < bigram
    assert judge.name == "mdlm-mcd/judge" == sweep.evaluator_name("mdlm-mcd/judge")


def test_a_tokenizer_beside_a_masked_model_opens_without_a_warning(monkeypatch):
    """Else the first line of `mdlm-mcd sample` says that something "can yield errors"."""
    warned, logger = [], logging.getLogger("transformers.configuration_utils")
    monkeypatch.setattr(logger, "handle", warned.append)
    for load in (PretrainedConfig.from_pretrained, lambda path: open_model(Source("a", path))):
        warned.clear()
        load(str(ASSETS / "teacher"))
        assert bool(warned) == (load == PretrainedConfig.from_pretrained)


def test_no_sentence_of_the_text_is_on_both_sides():
    data = {"train": "shipped", "valid": "shipped"}
    train, valid = (
        {line for text in corpus.documents(data, mode) for line in text.splitlines()}
        for mode in ("train", "valid")
    )
    assert len(valid) > 200 and len(train) > 10 * len(valid) and not train & valid


@pytest.mark.slow
def test_a_student_of_the_shipped_teacher(tmp_path):
    """By the recipe, for a step; its checkpoint names what is shipped, not where it lay."""
    once = "algo.rounds=1 algo.steps_per_round=1 trainer.max_steps=1 trainer.val_check_interval=1"
    small = "loader.global_batch_size=4 trainer.accelerator=cpu trainer.devices=1"
    save = f"checkpointing.save_dir={tmp_path}"
    config = documents.composed(
        ["algo=mcd", "+recipe=mcd_text", *once.split(), *small.split(), save]
    )
    make_absolute(config)
    assert config.algo.teacher_path == config.data.tokenizer_name_or_path == "mdlm-mcd/teacher"
    minihost.run(config)
    student = open_model(Source("student", str(tmp_path / "checkpoints" / "last.ckpt")))
    assert student.vocab_size == 2049 and student.provenance["teacher"] == "teacher"
    assert dataloader.get_tokenizer(config).get_vocab() == student.tokenizer.get_vocab()
    assert set(SHIPPED) == {"mdlm-mcd/teacher", "mdlm-mcd/judge"}
