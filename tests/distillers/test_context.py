"""A given context in every distiller: never masked, never in the loss."""

import json

import pytest
import torch
from runs import ALGOS, Watch, built, distil, fit, shaken, student_class
from texts import WORDS

EACH = pytest.mark.parametrize(
    "algo, law", [*((algo, "iid") for algo in ALGOS), ("mcd", "lattice"), ("mcd", "halton")]
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Overrides for 60 pairs of one to seven words."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for i in range(60):
            given, rest = " ".join(WORDS[i % 5 : i % 7 + 1]), f" {WORDS[i % 11]} {i}"
            print(json.dumps({"prompt": given, "completion": rest}), file=file)
    named = ("data.train=textpairs", "data.valid=textpairs", f"data.files=[{path}]")
    return (*named, "model.length=32", "algo.init_from=scratch", "algo.rounds=1")


@EACH
def test_given_tokens_are_shown_and_cost_nothing(config, pairs, algo, law):
    """In a whole run, whose loss is per free token, and whose validation is too."""
    seen = []

    class Student(student_class(algo)):
        def encode(self, backbone, z, *args):
            seen[-1][-1].append(z)
            return super().encode(backbone, z, *args)

        def distil(self, round_, x0, valid, condition, noise):
            seen.append([x0, valid, noise.given, []])
            parts = super().distil(round_, x0, valid, condition, noise)
            seen[-1].append(parts)
            return parts

    short = ("algo.steps_per_round=2", "trainer.max_steps=2", "trainer.val_check_interval=2")
    given = config(*pairs, *short, f"algo.u_law={law}", algo=algo)
    shaken(model := built(given, Student))
    _, trainer = fit(given, watch := Watch(), model=model)
    assert len(seen) == 2 and float(trainer.callback_metrics["val/nll"]) > 0
    for (x0, valid, context, views, parts), loss in zip(seen, watch.losses, strict=True):
        assert 0 < context.sum(-1).min() < context.sum(-1).max() < 32
        assert torch.equal(valid > 0, ~context)
        assert len(views) >= (1 if algo == "mmd" else 2) and any((z != x0).any() for z in views)
        for z in views:
            assert torch.equal(z[context], x0[context])
        assert (parts.per_token[context] == 0).all() and parts.per_token.any()
        rows = parts.distil_rows + parts.reveal_rows
        assert 0 < rows <= int((~context).sum())
        total = parts.loss if algo == "mmd" else parts.distil + parts.reveal
        count = rows if algo == "cd4lm" else int((~context).sum())
        assert loss == pytest.approx(float(total) / count, rel=1e-5)


@EACH
def test_a_batch_of_different_prompts_equals_its_rows_one_by_one(config, algo, law):
    plain = ("algo.init_from=scratch", "model.dropout=0", "loader.batch_size=4")
    shaken(model := built(config(*plain, f"algo.u_law={law}", algo=algo)).double())
    x0 = torch.randint(0, 250, (4, 16))
    given = torch.arange(16) < torch.tensor([0, 3, 9, 15])[:, None]
    given[0, 7] = True
    batch = (x0, (~given).long(), given)

    def of(rows, place=0):
        x0, valid, given = (part[rows] for part in batch)
        return distil(model, x0, valid, 4, given, place).per_token

    whole = of(slice(None))
    assert (whole[given] == 0).all() and (whole.sum(-1) > 0).sum() >= 3
    one_by_one = torch.cat([of(slice(i, i + 1), i) for i in range(4)])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-10, atol=1e-12)
