"""The sweep: rows, resuming, names that changed, and what is refused."""

import json
import sys
import types
from dataclasses import replace

import pytest
import torch

from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import bounds, results, sweep
from mdlm_mcd.evaluation.candidates import Candidate
from mdlm_mcd.evaluation.evaluators import CallableEvaluator
from mdlm_mcd.evaluation.plan import Plan, Setting, grid

VOCAB, MASK, LENGTH = 12, 11, 8


class Tokenizer:
    def batch_decode(self, tokens):
        return [" ".join(map(str, row.tolist())) for row in tokens]


def alpha(t):
    return 1 - (1 - 1e-3) * t


def model(label="a", sha="1" * 64, scale=1.0, calls=None):
    """A denoiser that looks at the position and at how much is visible."""
    generator = torch.Generator().manual_seed(0)
    table = scale * torch.randn(LENGTH, VOCAB, generator=generator)

    def denoise(z, rows):
        if calls is not None:
            calls.append(int(rows.sum()))
        visible = (z != MASK).double().mean(-1)[:, None, None]
        return (table.expand(len(z), LENGTH, VOCAB) * (1 + visible))[rows].float()

    return Candidate(
        label=label,
        denoise=denoise,
        alpha=alpha,
        mask_index=MASK,
        vocab_size=VOCAB,
        length=LENGTH,
        tokenizer=Tokenizer(),
        provenance={"sha256": sha, "algo": "mcd"},
    )


def evaluator(_):
    return CallableEvaluator(lambda tokens: torch.ones(len(tokens), LENGTH - 1), "even")


def held_out(_):
    return torch.randint(0, MASK, (120, LENGTH), generator=counter_generator(0))


def plan(**how):
    points = grid([2, 4], how.pop("temperature", [1.0]), **how)
    return Plan(points, num_samples=10, batch_size=4, bound_rows=16)


def run(out, *models, plan=None, **how):
    job = sweep.Sweep(
        plan or globals()["plan"](),
        out,
        evaluator=evaluator,
        held_out=held_out,
        facts={"commit": "c0ffee"},
        **how,
    )
    return job.run([lambda m=m: m for m in models])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_for_every_model_and_point(tmp_path):
    out, seen = tmp_path / "r.jsonl", []
    rows = run(
        out,
        model(),
        model("b", "2" * 64),
        plan=plan(temperature=[1.0, 0.5]),
        on_point=lambda *x: seen.append(x),
    )
    assert rows == lines(out) and len(rows) == 8
    row = rows[0]
    assert (row["model"], row["steps"], row["temperature"]) == ("a", 2, 1.0)
    assert row["commit"] == "c0ffee" and row["evaluator"] == "even"
    assert row["dtype"] == "float64" and row["sampler"] == "sparse"
    assert row["metrics"]["perplexity"]["value"] == pytest.approx(torch.e)
    assert row["evaluations"] == 2 and len(row["texts"]) == 4
    assert row["corpus"]["perplexity"] == pytest.approx(torch.e)
    # The bound is that of `bounds`, on the rows asked for.
    expected = bounds.n_step_nelbo(
        model().denoise,
        held_out(None)[:16],
        2,
        alpha=alpha,
        mask_index=MASK,
        generator=counter_generator(1, "n-step", 2),
    )
    assert row["metrics"]["n_step_nelbo"]["value"] == pytest.approx(expected.value)
    assert seen[-1] == (24.0, 24.0, "done")
    # One law, two labels: the same noise gave the same samples.
    assert rows[0]["texts"] == rows[4]["texts"]
    assert rows[0]["texts"] != rows[1]["texts"]


def test_it_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "r.jsonl"
    whole = run(out, model(), model("b", "2" * 64))
    text = out.read_text()
    # Killed while the third row was written.
    cut = text.splitlines(keepends=True)
    out.write_text("".join(cut[:2]) + cut[2][: len(cut[2]) // 2])
    calls = []
    again = run(out, model(calls=calls), model("b", "2" * 64))
    assert not calls  # the first model's rows stood already
    assert [sweep.identity(r) for r in again] == [sweep.identity(r) for r in whole]
    assert [sweep.identity(r) for r in lines(out)] == [sweep.identity(r) for r in whole]
    for a, b in zip(again, whole, strict=True):
        assert a["metrics"] == b["metrics"] and a["texts"] == b["texts"]
    # Further points are added to those that stand.
    more = run(out, model(), plan=Plan(grid([8]), 10, 4, 16))
    assert len(lines(out)) == 5 and more[0]["steps"] == 8


@pytest.mark.parametrize("at", [5, 12, -2])
@pytest.mark.parametrize("whole", [0, 1])
def test_a_row_cut_anywhere_is_measured_again(tmp_path, whole, at):
    out = tmp_path / "r.jsonl"
    rows = run(out, model())
    kept = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(kept[:whole]) + kept[whole][:at])
    if whole or at != 5:  # of which nobody could say whose they were
        assert [r["texts"] for r in run(out, model())] == [r["texts"] for r in rows]
        assert [sweep.identity(r) for r in lines(out)] == [sweep.identity(r) for r in rows]
        return
    with pytest.raises(ConfigError, match="line 1 is no JSON"):
        run(out, model())
    assert out.read_bytes() == kept[0][:at]


@pytest.mark.parametrize(
    "change",
    [
        lambda held: b"\xef\xbb\xbf" + held,  # as Windows' editors leave it
        lambda held: held.replace(b"\n", b"\r\n"),
        lambda held: held.replace(b"\n", b"\n\n \n"),
        lambda held: held.rstrip(),
    ],
)
def test_a_file_saved_by_an_editor_is_gone_on_with(tmp_path, change):
    out, calls = tmp_path / "r.jsonl", []
    run(out, model())
    out.write_bytes(change(out.read_bytes()))
    before = out.read_bytes()
    assert len(run(out, model(calls=calls))) == 2 and not calls
    assert out.read_bytes().startswith(before)
    run(out, model(), plan=Plan(grid([8]), 10, 4, 16))
    assert [row["steps"] for row in sweep.existing(out)] == [2, 4, 8]
    assert out.read_bytes().startswith(before)


def test_results_that_may_not_be_written(tmp_path, monkeypatch):
    def forbidden(self, mode="r", **how):
        raise PermissionError(13, "Permission denied")

    out, calls = tmp_path / "r.jsonl", []
    run(out, model())
    monkeypatch.setattr("pathlib.Path.open", forbidden)
    with pytest.raises(ConfigError, match="cannot be written .Permission denied"):
        run(out, model("b", "2" * 64, calls=calls))
    assert not calls


def test_weights_that_changed_under_a_name(tmp_path):
    out = tmp_path / "r.jsonl"
    run(out, model())
    with pytest.raises(ConfigError, match="sha256 111111111111 and not 3333.*LABEL="):
        run(out, model(sha="3" * 64))
    assert len(lines(out)) == 2


def test_another_held_out_text_is_another_measurement(tmp_path, monkeypatch):
    """And has its own file, as no table could hold both."""
    out, calls = tmp_path / "r.jsonl", []
    first = run(out, model())
    more = replace(plan(), bound_rows=64)
    with pytest.raises(ConfigError, match="with bound_rows 16, and those of a .* 64"):
        run(out, model(calls=calls), plan=more)
    few = replace(plan(), num_samples=5)
    with pytest.raises(ConfigError, match="with num_samples 10, and .* another file"):
        run(out, model("b", "2" * 64, calls=calls), plan=few)
    wider = run(tmp_path / "wider.jsonl", model(), plan=more)
    monkeypatch.setitem(
        globals(),
        "held_out",
        lambda _: torch.randint(0, MASK, (120, LENGTH), generator=counter_generator(7)),
    )
    with pytest.raises(ConfigError, match="with corpus_sha256"):
        run(out, model(calls=calls))
    assert not calls and lines(out) == first  # before any work
    other = run(tmp_path / "other.jsonl", model())
    bound = [r[0]["metrics"]["n_step_nelbo"]["value"] for r in (first, wider, other)]
    assert len(set(bound)) == 3
    assert [r[0]["bound_rows"] for r in (first, wider)] == [16, 64]
    with pytest.raises(ConfigError, match="has corpus_sha256"):
        results.read([out, tmp_path / "other.jsonl"])
    # Nor do rows of before it was written down stand beside these.
    out.write_text("".join(json.dumps(r | {"corpus_sha256": None}) + "\n" for r in first))
    with pytest.raises(ConfigError, match="with corpus_sha256 None, and"):
        run(out, model(calls=calls))
    assert not calls


def test_two_precisions_share_a_file(tmp_path):
    """A sweep measures both at once, and the report tells them apart by --force."""
    out = tmp_path / "r.jsonl"
    run(out, model(), plan=plan(dtypes=["float32"]))
    run(out, model(), plan=plan(dtypes=["float64"]))
    assert [row["dtype"] for row in lines(out)] == ["float32"] * 2 + ["float64"] * 2


def test_noise_of_ones_own(tmp_path):
    """Another for draws alone: samples change, bounds do not."""

    def noise(seed, what, *counters):
        return counter_generator(seed, "mine" if what == "sweep" else what, *counters)

    one, other = run(tmp_path / "a", model()), run(tmp_path / "b", model(), noise=noise)
    assert one[0]["texts"] != other[0]["texts"]
    for name in ("n_step_nelbo", "nelbo"):
        assert one[0]["metrics"][name] == other[0]["metrics"][name]


def test_a_temperature_that_falls(tmp_path):
    """Between the two ends, by bound and by name; the endless bound knows no steps."""
    out = tmp_path / "r.jsonl"
    points = [Setting(steps=4, temperature=1.0, temperature_end=t) for t in (None, 0.3, 1.0)]
    plain, falling, flat = run(out, model(), plan=Plan(tuple(points), 10, 4, 16))
    assert falling["texts"] != plain["texts"] == flat["texts"]
    bound = [r["metrics"]["n_step_nelbo"]["value"] for r in (plain, falling, flat)]
    assert bound[1] != bound[0] == bound[2]
    assert "nelbo" in plain["metrics"] and "nelbo" not in falling["metrics"]
    assert results.read([out]).names == ["a", "a, T to 0.3", "a, T to 1"]
    with pytest.raises(ConfigError, match="temperature positive"):
        run(out, model(), plan=Plan((Setting(temperature_end=-1.0),), 10, 4, 16))


def test_a_model_that_draws_itself(tmp_path):
    def generate(count, steps, generator):
        return torch.randint(0, MASK, (count, LENGTH), generator=generator)

    own = replace(model(), denoise=None, generate=generate)
    rows = run(tmp_path / "r.jsonl", own)
    assert "n_step_nelbo" not in rows[0]["metrics"] and rows[1]["evaluations"] == 4
    assert rows[0]["texts"] == run(tmp_path / "again", own)[0]["texts"] != rows[1]["texts"]


def test_a_full_device_is_a_sentence(tmp_path):
    def denoise(z, rows):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="--batch-size 4 takes more memory than cpu has"):
        run(tmp_path / "r.jsonl", replace(model(), denoise=denoise))


def test_another_batch_is_written_down(tmp_path):
    out = tmp_path / "r.jsonl"
    run(out, model())
    other = model("b", "2" * 64)
    rows = run(out, other, plan=replace(plan(), batch_size=3))
    assert {row["batch_size"] for row in lines(out)} == {4, 3}
    assert rows[0]["texts"] != lines(out)[0]["texts"]  # of other noise


def test_two_names_of_the_same_weights(tmp_path):
    """In one run or in two, the figures stand already."""
    out, calls = tmp_path / "r.jsonl", []
    rows = run(out, model("a"), model("b", calls=calls))
    rows += run(out, model("c", calls=calls))
    assert not calls and lines(out) == rows
    assert [r["model"] for r in rows] == ["a", "a", "b", "b", "c", "c"]
    assert rows[0]["metrics"] == rows[2]["metrics"] == rows[4]["metrics"]


def test_an_evaluator_of_known_name_is_opened_where_a_point_is_missing(tmp_path):
    out, opened = tmp_path / "r.jsonl", []

    def sweep_of(name):
        opened.clear()
        models = [model(label, sha * 64) for label, sha in ("a1", "b2", "c3")]
        return sweep.Sweep(
            plan(),
            out,
            evaluator=lambda m: opened.append(m.label) or evaluator(m),
            held_out=held_out,
            evaluator_name=name,
        ).run([lambda m=m: m for m in models])

    rows = sweep_of("even")
    assert opened == ["a", "b", "c"]
    assert sweep_of("even") == rows and not opened
    assert sweep_of(None) == rows and opened == ["a", "b", "c"]
    held = out.read_text().splitlines(keepends=True)
    out.write_text("".join(held[:3] + held[4:]))
    assert [r["metrics"] for r in sweep_of("even")] == [r["metrics"] for r in rows]
    assert opened == ["b"]


def test_models_of_no_checkpoint_are_measured_each(tmp_path):
    one, other = (
        replace(model(name, scale=s), provenance={}) for name, s in (("a", 1.0), ("b", 5.0))
    )
    rows = run(tmp_path / "r.jsonl", one, other)
    assert rows[0]["texts"] != rows[2]["texts"]
    run(tmp_path / "r.jsonl", one, other)
    assert lines(tmp_path / "r.jsonl") == rows  # nothing is taken out, nor added


def test_bounds_only_where_they_are_bounds(tmp_path):
    rows = run(tmp_path / "a", model(), plan=plan(top_p=0.9))
    assert "n_step_nelbo" not in rows[0]["metrics"]
    rows = run(tmp_path / "b", model(), plan=plan(laws=[("lattice", 0.5)]))
    iid = run(tmp_path / "c", model())
    lattice = rows[0]["metrics"]["n_step_nelbo"]["value"]
    assert lattice != iid[0]["metrics"]["n_step_nelbo"]["value"]
    # The bound without steps knows no law of u.
    assert rows[0]["metrics"]["nelbo"] == iid[0]["metrics"]["nelbo"]


def test_a_plan_is_checked_before_any_model_is_opened(tmp_path):
    with pytest.raises(ConfigError, match="sprase is unknown: choose one of ancestral"):
        run(tmp_path / "r.jsonl", plan=plan(samplers=["sprase"]))
    assert not (tmp_path / "r.jsonl").exists()


def test_one_latent_for_all_numbers_of_steps(tmp_path):
    """Under `locked` a denoiser that looks at nothing draws the same at any steps."""

    def blind(z, rows):
        return torch.linspace(0, 1, VOCAB).expand(int(rows.sum()), VOCAB).clone()

    fixed = replace(model(), denoise=blind)
    points = grid([2, 5], samplers=["locked"], laws=[("lattice", None)])
    rows = run(tmp_path / "r", fixed, plan=Plan(points, 10, 4, 16))
    assert rows[0]["texts"] == rows[1]["texts"]


def test_a_fitted_step(tmp_path):
    rows = run(tmp_path / "r", model(), plan=plan(laws=[("lattice", "auto")], stratified=True))
    assert rows[0]["u_step"] == "auto" and 0 < rows[0]["u_step_fitted"] <= 1
    assert rows[0]["stratified"] is True


def test_mauve_is_asked_for_before_any_model_is_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    asked = replace(plan(), mauve=True)
    with pytest.raises(ConfigError, match=r"mdlm-mcd\[mauve\]"):
        run(tmp_path / "r.jsonl", plan=asked)
    stub = types.ModuleType("mauve")
    seen = []

    def compute_mauve(p_text, q_text, **how):
        seen.append((len(p_text), len(q_text)))
        return types.SimpleNamespace(mauve=0.5)

    stub.compute_mauve = compute_mauve
    monkeypatch.setitem(sys.modules, "mauve", stub)
    many = replace(asked, num_samples=100, points=grid([2]))
    (row,) = run(tmp_path / "r.jsonl", model(), plan=many)
    assert row["metrics"]["mauve"]["value"] == 0.5 and seen == [(100, 100)]


def test_samples_of_nothing_but_eos(tmp_path):
    class Ends(Tokenizer):
        eos_token_id = 5

    def only_eos(z, rows):
        return torch.full((int(rows.sum()), VOCAB), -1e4).index_fill_(1, torch.tensor([5]), 0.0)

    with pytest.raises(ConfigError, match="nothing but EOS"):
        run(tmp_path / "r", replace(model(), denoise=only_eos, tokenizer=Ends()))


def test_a_schedules_slope():
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    dalpha_t, alpha_t = model().noise(t)
    torch.testing.assert_close(alpha_t, alpha(t))
    torch.testing.assert_close(dalpha_t, torch.full_like(t, -(1 - 1e-3)))
    assert not dalpha_t.requires_grad and not alpha_t.requires_grad
