"""The sweep: rows, resuming, names that changed, and what is refused."""

import json
import sys
import types
from dataclasses import replace

import pytest
import synthetic
import torch

from mdlm_mcd import laws
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import bounds, diversity, likelihood, results, sweep
from mdlm_mcd.evaluation.candidates import Candidate
from mdlm_mcd.evaluation.evaluators import CallableEvaluator
from mdlm_mcd.evaluation.plan import Plan, Setting, grid
from mdlm_mcd.evaluation.rows import append, existing, resumed
from mdlm_mcd.sampling import chain

VOCAB, MASK, LENGTH = 12, 11, 8


class Tokenizer:
    def batch_decode(self, tokens):
        return [" ".join(map(str, row.tolist())) for row in tokens]


def alpha(t):
    return 1 - (1 - 1e-3) * t


ALPHA = dict(alpha=alpha, mask_index=MASK)


def model(label="a", sha="1" * 64, scale=1.0, calls=None):
    """A denoiser that looks at the position and at how much is visible."""
    generator = torch.Generator().manual_seed(0)
    table = scale * torch.randn(LENGTH, VOCAB, generator=generator)

    def denoise(z, rows):
        if calls is not None:
            calls.append(int(rows.sum()))
        visible = (z != MASK).double().mean(-1)[:, None, None]
        return (table.expand(len(z), LENGTH, VOCAB) * (1 + visible))[rows].float()

    how = dict(vocab_size=VOCAB, length=LENGTH, tokenizer=Tokenizer(), **ALPHA)
    made_by = {"sha256": sha, "algo": "mcd"}
    return Candidate(label=label, denoise=denoise, provenance=made_by, **how)


def evaluator(_):
    return CallableEvaluator(lambda tokens: torch.ones(len(tokens), LENGTH - 1), "even")


def held_out(_):
    return torch.randint(0, MASK, (120, LENGTH), generator=counter_generator(0))


def plan(*points, **how):
    """Ten samples in batches of four, at these points or in 2 and 4 steps."""
    few = {"num_samples": 10, "batch_size": 4, "bound_rows": 16}
    return Plan(points or grid([2, 4]), **few | how)


def run(out, *models, plan=None, **how):
    how = dict(evaluator=evaluator, held_out=held_out, facts={"commit": "c0ffee"}) | how
    job = sweep.Sweep(plan or globals()["plan"](), out, **how)
    return job.run([lambda m=m: m for m in models])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_for_every_model_and_point(tmp_path):
    out, seen = tmp_path / "r.jsonl", []
    how = dict(plan=plan(*grid([2, 4], [1.0, 0.5])), on_point=lambda *x: seen.append(x))
    rows = run(out, model(), model("b", "2" * 64), **how)
    assert rows == lines(out) and len(rows) == 8
    row = rows[0]
    assert (row["model"], row["steps"], row["temperature"]) == ("a", 2, 1.0)
    assert row["commit"] == "c0ffee" and row["evaluator"] == "even"
    assert row["dtype"] == "float64" and row["sampler"] == "sparse"
    assert row["metrics"]["perplexity"]["value"] == pytest.approx(torch.e)
    assert row["evaluations"] == 2 and len(row["texts"]) == 4
    assert row["corpus"]["perplexity"] == pytest.approx(torch.e)
    # The bound is that of `bounds`, on the rows asked for.
    how = dict(generator=counter_generator(1, "n-step", 2), **ALPHA)
    expected = bounds.n_step_nelbo(model().denoise, held_out(None)[:16], 2, **how)
    assert row["metrics"]["n_step_nelbo"]["value"] == pytest.approx(expected.value)
    assert seen[-1] == (24.0, 24.0, "done")
    # One law, two labels: the same noise gave the same samples.
    assert rows[1]["texts"] != rows[0]["texts"] == rows[4]["texts"]


@pytest.mark.parametrize("rows, at", [(2, 400), (0, 5), (0, -2), (1, 12)])
def test_it_goes_on_where_it_stopped(tmp_path, rows, at):
    """Killed while a row was written."""
    out = tmp_path / "r.jsonl"
    whole = run(out, model(), model("b", "2" * 64))
    cut = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(cut[:rows]) + cut[rows][:at])
    calls = []
    again = run(out, model(calls=calls), model("b", "2" * 64))
    assert bool(calls) == (rows < 2)  # else the first model's rows stood already
    assert [r | {"seconds": 0} for r in again] == [r | {"seconds": 0} for r in whole]
    assert lines(out) == again
    # Further points are added to those that stand.
    more = run(out, model(), plan=plan(Setting(steps=8)))
    assert len(lines(out)) == 5 and more[0]["steps"] == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: b"\xef\xbb\xbf" + kept,  # as Windows' editors leave it
        lambda kept: kept.replace(b"\n", b"\r\n"),
        lambda kept: b"".join(b"\xef\xbb\xbf" + x for x in kept.splitlines(True)),  # joined
        lambda kept: kept.replace(b"\n", b"\n\n \n"),
        lambda kept: kept.rstrip(),
    ],
)
def test_a_file_saved_by_an_editor_is_gone_on_with(tmp_path, change):
    out, texts = tmp_path / "r.jsonl", ["a\u2028b", "c\x85d"]  # no line ends, but in Unicode
    for n in (4, 8):
        append(out, synthetic.row(steps=n, texts=texts))
    out.write_bytes(change(out.read_bytes()))
    before = out.read_bytes()
    found = results.read([out])
    assert [p.row for p in found.points] == resumed(out) and not found.notes
    append(out, synthetic.row(steps=16))
    assert [row["steps"] for row in existing(out)] == [4, 8, 16]
    assert out.read_bytes().startswith(before)


def test_a_name_that_is_no_text_and_a_seed_that_no_file_holds(tmp_path):
    out = tmp_path / "r.jsonl"
    rows = run(out, model("\udcff"))
    assert len(existing(out)) == len(rows) == len(run(out, model("b")))
    with pytest.raises(ConfigError, match="--seed 9223372036854775808 must be"):
        run(out, model(), plan=plan(seed=2**63))


def test_what_no_table_could_hold_is_refused_before_any_work(tmp_path):
    out, calls = tmp_path / "r.jsonl", []
    first = run(out, model(), plan=plan(*grid([2, 4], dtypes=["float32"])))
    other_text = torch.zeros(120, LENGTH, dtype=torch.long)
    for mine, changed, words in (
        (model(sha="3" * 64, calls=calls), {}, "sha256 1111.* would have 3333.*LABEL="),
        (model(calls=calls), {"plan": plan(bound_rows=64)}, "bound_rows 16, .* 64"),
        (model("b", "2" * 64, calls=calls), {"plan": plan(num_samples=5)}, "samples 10"),
        (model(calls=calls), {"held_out": lambda _: other_text}, "with corpus_sha256"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(out, mine, **changed)
    # Nor do rows of before it was written down stand beside these.
    out.write_text("".join(json.dumps(r | {"corpus_sha256": None}) + "\n" for r in first))
    with pytest.raises(ConfigError, match="with corpus_sha256 None, and"):
        run(out, model(calls=calls))
    assert not calls and len(lines(out)) == 2
    # Two precisions share a file: the report takes them by parts.
    out.write_text("".join(json.dumps(r) + "\n" for r in first))
    run(out, model())
    assert [row["dtype"] for row in lines(out)] == ["float32"] * 2 + ["float64"] * 2


def test_a_temperature_that_falls(tmp_path):
    """Between the two ends, by bound and by name; the endless bound knows no steps."""
    out = tmp_path / "r.jsonl"
    points = [Setting(steps=4, temperature=1.0, temperature_end=t) for t in (None, 0.3, 1.0)]
    plain, falling, flat = run(out, model(), plan=plan(*points))
    assert falling["texts"] != plain["texts"] == flat["texts"]
    bound = [r["metrics"]["n_step_nelbo"]["value"] for r in (plain, falling, flat)]
    assert bound[1] != bound[0] == bound[2]
    assert "nelbo" in plain["metrics"] and "nelbo" not in falling["metrics"]
    assert results.read([out]).names == ["a", "a, T to 0.3", "a, T to 1"]
    with pytest.raises(ConfigError, match="must be positive"):
        run(out, model(), plan=plan(Setting(temperature_end=-1.0)))


def test_a_model_that_draws_itself(tmp_path):
    def generate(count, steps, generator):
        return torch.randint(0, MASK, (count, LENGTH), generator=generator)

    own = replace(model(), denoise=None, generate=generate)
    rows = run(tmp_path / "r.jsonl", own)
    assert "n_step_nelbo" not in rows[0]["metrics"] and rows[1]["evaluations"] == 4
    assert rows[0]["texts"] == run(tmp_path / "again", own)[0]["texts"] != rows[1]["texts"]
    with pytest.raises(ConfigError, match="a draws by its own `generate`, which knows steps"):
        run(tmp_path / "hot", own, plan=plan(Setting(temperature=0.5)))


def test_two_names_of_the_same_weights(tmp_path):
    """In one run or in two, the figures stand already; without a checkpoint they do not."""
    out, calls = tmp_path / "r.jsonl", []
    rows = run(out, model("a"), model("b", calls=calls))
    rows += run(out, model("c", calls=calls))
    assert not calls and lines(out) == rows
    assert [r["model"] for r in rows] == ["a", "a", "b", "b", "c", "c"]
    assert rows[0]["metrics"] == rows[2]["metrics"] == rows[4]["metrics"]
    nameless = [replace(model(name, scale=s), provenance={}) for name, s in (("a", 1), ("b", 5))]
    one, other = run(tmp_path / "n", *nameless, plan=plan(Setting(steps=2)))
    assert one["texts"] != other["texts"]
    with pytest.raises(ConfigError, match="rows of a, and a model without a hash .*sha256"):
        run(tmp_path / "n", nameless[0])


def test_an_evaluator_of_known_name_is_opened_where_a_point_is_missing(tmp_path):
    out, opened = tmp_path / "r.jsonl", []

    def sweep_of(name):
        opened.clear()
        models = [model(label, sha * 64) for label, sha in ("a1", "b2", "c3")]
        noted = dict(evaluator=lambda m: opened.append(m.label) or evaluator(m))
        return run(out, *models, evaluator_name=name, **noted)

    rows = sweep_of("even")
    assert opened == ["a", "b", "c"]
    assert sweep_of("even") == rows and not opened
    assert sweep_of(None) == rows and opened == ["a", "b", "c"]
    kept = out.read_text().splitlines(keepends=True)
    out.write_text("".join(kept[:3] + kept[4:]))
    assert [r["metrics"] for r in sweep_of("even")] == [r["metrics"] for r in rows]
    assert opened == ["b"]


def test_the_batch_decides_the_noise(tmp_path):
    one, _ = run(tmp_path / "r", model())
    other, _ = run(tmp_path / "s", model(), plan=plan(batch_size=3))
    assert other["texts"] != one["texts"] and (one["batch_size"], other["batch_size"]) == (4, 3)


def test_what_a_flag_asks_for_later_is_measured(tmp_path):
    """Rows of the same command without it stand there already; no other is drawn again."""
    comb = Setting(steps=2, u_law="lattice", u_step=0.5)
    points = (comb, replace(comb, top_p=0.9), Setting(steps=2))
    out, plain = tmp_path / "r", plan(*points)
    before = run(out, model(), plan=plain)
    for _ in range(2):
        rows = run(out, model(), plan=replace(plain, exact=True))
        assert len(lines(out)) == 4 and lines(out)[-1] == rows[0]
    assert rows[0]["metrics"].keys() - before[0]["metrics"].keys() == {"nll"}
    own = likelihood.comb_likelihood(model().denoise, held_out(None)[:16], 2, **ALPHA)
    nll, bound = (rows[0]["metrics"][name]["value"] for name in ("nll", "n_step_nelbo"))
    assert nll == pytest.approx(own.value) and nll < bound + 0.05  # of 16 draws of u
    assert rows[1:] == before[1:]


BOUNDS = {"n_step_nelbo", "nelbo"}
POINTS = {
    Setting(): BOUNDS,
    Setting("ancestral"): BOUNDS,
    Setting("sparse:schedule=cosine"): BOUNDS,
    Setting(u_law="lattice", u_step=0.5): BOUNDS,
    Setting(u_law="lattice", u_step="auto", stratified=True): BOUNDS,
    Setting("confidence"): {"nll"},
    Setting("confidence:threshold=0.9:block=4"): {"nll"},
    Setting("confidence:schedule=cosine"): {"nll"},
    # Whose order is drawn; a token opens twice; what is cut costs infinitely much.
    Setting("confidence:threshold=0.9:score=raw"): set(),
    Setting("ancestral:remask=1.0"): set(),
    Setting(top_p=0.9): set(),
    Setting("sparse:greedy_tail=1"): set(),
    Setting("confidence:greedy_tail=4"): set(),
}


def test_points_of_all_kinds(tmp_path):
    """Each a curve of its own, with the bounds that hold for it, by the steps that it takes."""
    points = [replace(point, steps=4) for point in POINTS]
    how = dict(batch_size=10, exact=True, by_row=True)
    rows = run(tmp_path / "r", model(scale=3.0), plan=plan(*points, **how))
    for row, names in zip(rows, POINTS.values(), strict=True):
        assert row["metrics"].keys() & {*BOUNDS, "nll"} == names
    assert [row["sampler"] for row in rows] == [point.sampler for point in points]
    drawn = {row["sampler"]: row["texts"][0] for row in rows}
    for name in ("ancestral:remask=1.0", "confidence:threshold=0.9:score=raw"):
        assert drawn[name] != drawn[name.partition(":")[0]]
    assert len({point.curve for point in results.read([tmp_path / "r"]).points}) == len(points)
    iid, _, cosine, lattice, fitted, confident, block, *_ = rows
    steps = [row["metrics"]["n_step_nelbo"]["value"] for row in (iid, cosine, lattice, fitted)]
    assert len(set(steps)) == 4
    # The bound without steps knows neither a law of u nor a schedule.
    assert iid["metrics"]["nelbo"] == cosine["metrics"]["nelbo"] == lattice["metrics"]["nelbo"]
    assert fitted["u_step"] == "auto" and 0 < fitted["u_step_fitted"] <= 1
    assert confident["metrics"]["nll"] != block["metrics"]["nll"]
    text, denoise = held_out(None)[:16], model(scale=3.0).denoise
    own = likelihood.confidence_likelihood(denoise, text, 4, **ALPHA)
    assert confident["metrics"]["nll"]["value"] == pytest.approx(own.value)
    by_row = iid["metrics"]["n_step_nelbo"]["by_row"]
    assert len(by_row) == 16 and sum(by_row) / 16 == pytest.approx(steps[0], abs=1e-4)


def test_a_plan_is_checked_before_any_model_is_opened(tmp_path, monkeypatch):
    out, asked = tmp_path / "r.jsonl", plan(num_samples=100, batch_size=50, mauve=True)
    with pytest.raises(ConfigError, match="sprase is unknown: choose one of ancestral"):
        run(out, plan=plan(Setting("sprase")))
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ConfigError, match="mauve needs the package"):
        run(out, plan=asked)
    assert not out.exists()

    def compute_mauve(p_text, q_text, **how):
        return types.SimpleNamespace(mauve=len(p_text) / len(q_text))

    monkeypatch.setitem(sys.modules, "mauve", types.SimpleNamespace(compute_mauve=compute_mauve))
    with pytest.raises(ConfigError, match="100 texts on both sides and has 99"):
        run(tmp_path / "few", model(), plan=asked, held_out=lambda m: held_out(m)[:99])
    row, _ = run(out, model(), plan=asked)
    assert row["metrics"]["mauve"] == {"value": 1.0, "low": None, "high": None}


def test_a_figure_asked_for_later_takes_none_away(tmp_path, monkeypatch):
    monkeypatch.setattr(diversity, "require_mauve", lambda texts: None)
    monkeypatch.setattr(diversity, "mauve", lambda *texts: 0.5)
    out, point = tmp_path / "r.jsonl", Setting(u_law="lattice", u_step=0.5, steps=2)
    for how in ({"exact": True}, {"mauve": True}, {"exact": True}):
        (row,) = run(out, model(), plan=plan(point, batch_size=10, **how))
        assert "nll" in row["metrics"]
    assert "mauve" in row["metrics"] and len(lines(out)) == 2


def test_a_fitted_step_knows_the_shares_of_the_steps(tmp_path):
    """Every second token is the one before: under equal shares 1/4 is best, else another."""
    x = torch.randint(0, MASK, (400, LENGTH // 2), generator=counter_generator(0))
    text, fitted = x.repeat_interleave(2, 1), []
    cosine = replace(model("b", "2" * 64), alpha=lambda t: torch.cos(torch.pi / 2 * t))
    how = dict(u_law="lattice", u_step="auto", steps=4)
    for name, one in (("sparse", model()), ("sparse:schedule=cosine", model()), ("sparse", cosine)):
        points = plan(Setting(name, **how))
        (row,) = run(tmp_path / "r", one, plan=points, held_out=lambda _: text)
        fitted.append(row["u_step_fitted"])
    information = laws.mutual_information(text, generator=counter_generator(1, "lags"))
    shares = [torch.tensor(chain.levels_of(cosine.alpha, 4)).diff().tolist(), "cosine"]
    best = [laws.fit_step(information, LENGTH, 4, schedule=s) for s in ("uniform", *shares[::-1])]
    assert fitted == best and len(set(best)) > 1


def test_a_likelihood_that_is_not_known_is_left_out(tmp_path):
    cosine = replace(model(), alpha=lambda t: torch.cos(torch.pi / 2 * t))
    point = Setting(u_law="lattice", u_step=0.25, steps=4)
    (row,) = run(tmp_path / "r", cosine, plan=plan(point, exact=True))
    assert row["metrics"].keys() & {*BOUNDS, "nll"} == BOUNDS


@pytest.mark.parametrize("law", [dict(), dict(u_law="lattice", u_step=0.25), dict(stratified=True)])
def test_a_token_that_was_never_masked_is_given(tmp_path, law):
    """`algo.ignore_bos`: the model gives it no probability, and neither draws nor pays it."""
    log_p = torch.randn(LENGTH, VOCAB, generator=counter_generator(1)).double()
    log_p[:, MASK] = log_p[0, 3] = -1e4
    log_p = log_p.log_softmax(-1)
    one = replace(model(), denoise=lambda z, rows: log_p.expand(*z.shape, -1)[rows], bos=3)
    text = torch.randint(0, 3, (16, LENGTH), generator=counter_generator(2))
    text[:, 0] = 3
    points = plan(Setting(steps=4, **law), Setting("confidence", steps=4), exact=True)
    row, other = run(tmp_path / "r", one, plan=points, held_out=lambda _: text)
    costs = -log_p.expand(16, -1, -1).gather(-1, text[..., None]).squeeze(-1)[:, 1:]
    exact = float(costs[: row["bound_rows"]].sum(1).mean()) / LENGTH
    assert row["metrics"]["n_step_nelbo"]["value"] == pytest.approx(exact, rel=1e-6)
    assert row["metrics"]["nelbo"]["value"] < 5  # 1e4 where the token is masked
    assert all(text.startswith("3 ") for each in (row, other) for text in each["texts"])
    assert not {"nll"} & (row["metrics"].keys() | other["metrics"].keys())


def test_what_would_be_no_bound_is_left_out(tmp_path):
    """Where tokens are visible at t = 1 the NELBO of training does not charge for them."""
    one = replace(model(), alpha=lambda t: 1 - 0.9 * t)
    (row,) = run(tmp_path / "r", one, plan=plan(Setting()))
    assert row["metrics"].keys() & BOUNDS == {"n_step_nelbo"}


def test_the_grid_holds_each_point_once_and_the_cheap_ones_first():
    points = grid([8, 2, 8], [1.0, 0.5, 1.0], laws=[("iid", None), ("lattice", 1 / 8)])
    assert [p.steps for p in points] == 4 * [2] + 4 * [8]
    assert points[1] == Setting(u_law="lattice", u_step=1 / 8, steps=2)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(bound_rows=1), "--bound-rows 1"),
        (dict(mauve=True), "mauve needs at least 100 texts on both sides and has 10"),
        (dict(num_samples=1), "--num-samples 1,"),
        (dict(batch_size=0), "--batch-size 0"),
        (Setting(steps=0), "--steps 0"),
        (Setting(temperature=0.0), "temperature=0.0 must be positive"),
        (Setting(dtype="float16"), "float16 is unknown: choose one of float64"),
        (Setting(u_law="halton", u_step="auto"), "u_step=auto"),
        (Setting("ancestral:threshold=0.5"), "threshold=0.5 is not supported"),
        (Setting("sparse:u_law=lattice"), "give it as --u-law LAW:STEP"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(change, words):
    fine = plan(Setting(), Setting(u_law="lattice", u_step="auto"))
    fine.check()
    change = change if isinstance(change, dict) else {"points": (change,)}
    with pytest.raises(ConfigError, match=words):
        replace(fine, **change).check()
