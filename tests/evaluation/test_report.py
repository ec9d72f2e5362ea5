"""The report: what stands where, what it claims, and that nothing breaks out."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import estimate, row, sweep, write

from mdlm_mcd.commands import main
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import report, results
from mdlm_mcd.evaluation.report import compare, markup, paper, sections

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A strict reader: every tag is closed in its turn; collects what tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.tables = [], [], [], []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found, tuple(self.open)))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "table":
            self.tables.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
        if "table" in self.open:
            self.tables[-1] += data + "|"

    def all(self, tag):
        return [a for t, a, _ in self.tags if t == tag]


def made(tmp_path, rows, **keys):
    path = write(tmp_path / "rows.jsonl", rows)
    found = results.read([path], force=keys.pop("force", False))
    return report.page(found, **keys)


@pytest.fixture
def full(tmp_path):
    return made(tmp_path, sweep())


# Structure --------------------------------------------------------------------------


def test_sections_in_their_order(full):
    page = Page(full)
    sections = [a["id"] for a in page.all("section")]
    assert sections == [
        "what",
        "figures",
        "paper",
        "steps",
        "frontier",
        "compared",
        "diversity",
        "samples",
        "provenance",
    ]
    linked = [a["href"] for a in page.all("a") if a["href"] != "#main"]
    assert linked == [f"#{s}" for s in sections]


def test_the_page_is_one_file_without_script(full):
    page = Page(full)
    used = {t for t, *_ in page.tags}
    assert not used & {"script", "iframe", "img", "object", "form", "base"}
    for _, attributes, _ in page.tags:
        assert not [k for k in attributes if k.startswith("on") or k == "src"]
        assert attributes.get("href", "#").startswith(("#", "data:"))
    assert "url(" not in full and "@import" not in full
    (policy,) = [a for a in page.all("meta") if "http-equiv" in a]
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_what_a_reader_without_eyes_or_mouse_needs(full):
    page = Page(full)
    assert len(page.ids) == len(set(page.ids))
    for _, attributes, _ in page.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(key, "").split()) <= set(page.ids)
    charts_ = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(charts_) == 6  # three over steps, a frontier for each number of steps
    assert all(len(a["aria-labelledby"].split()) == 2 for a in charts_)
    hidden = [a for a in page.all("svg") if a.get("role") != "img"]
    assert all(a["aria-hidden"] == "true" for a in hidden)
    assert full.count("<desc ") == 6 and "teacher: 500 at 4" in full
    regions = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert len(regions) == len(page.tables) == full.count("<caption ")
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
    assert all("scope" in a for a in page.all("th"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    levels = [int(t[1]) for t, *_ in page.tags if re.fullmatch("h[1-6]", t)]
    assert all(b <= a + 1 or b == 4 for a, b in zip(levels, levels[1:], strict=False))


def test_the_nelbo_stands_first_in_every_table_of_figures(full):
    seen = 0
    for text in Page(full).tables:
        if "arXiv" in text or "read from" in text:
            continue  # the paper gives none; provenance has no figures
        caption, rest = text.split("|", 1)
        if "Table 1" in caption:
            assert caption.index("N-step NELBO") < caption.index("perplexity")
            assert rest.index("4.700") < rest.index("|500|") < rest.index("3.84")
        else:
            before = re.split("perplexity|Perplexity|entropy", rest)[0]
            assert "N-step NELBO" in before, text[:200]
        seen += 1
    assert seen == 9


def test_intervals_and_absent_figures(tmp_path):
    rows = [row(), row("MCD round 1", metrics={"perplexity": estimate(100.0)})]
    text = made(tmp_path, rows)
    Page(text)
    assert "98.0–102" in text and "not measured" in text
    assert not re.search(r"\b(nan|None|inf)\b", " ".join(Page(text).tables))


# What it says -----------------------------------------------------------------------


def test_published_figures_stand_apart_or_beside(tmp_path, full):
    assert "163.27" in full and "float32?" in full
    assert "another model, text and evaluator" in full
    same = sweep(steps=(32, 64), length=1024, evaluator="openai/gpt2-large")
    beside = made(tmp_path, same)
    assert "another model, text and evaluator" not in beside
    (table,) = [t for t in Page(beside).tables if "Table 1 of the paper" in t]
    assert "MCD HYBRID, measured" in table or "MCD hybrid, measured" in table
    assert "163.27" in table and "39.73" in table and "192 in float64" in beside


def test_the_published_figures_are_the_papers():
    found = paper.published()
    assert all(len(r["perplexity"]) == len(found["steps"]) for r in found["rows"])
    by = {(r["algo"], r["round"]): r["perplexity"] for r in found["rows"]}
    assert by["mdlm", None] == [163.27, 105.96, 81.54, 65.02, 54.74]
    assert by["mcd", 5] == [39.73, 29.74, 23.12, 21.22, 18.38]
    assert by["sdtt", 5][0] == 52.16 and by["duo", 1][-1] == 67.94
    assert len(by) == 17


def test_forced_rows_are_marked(tmp_path):
    rows = sweep(models=("teacher",)) + sweep(models=("MCD round 1",), dtype="float32")
    path = write(tmp_path / "r.jsonl", rows)
    assert main.main(["report", str(path), "--out", str(tmp_path / "o.html")]) == 1
    text = made(tmp_path, rows, force=True)
    assert text.count("Forced: these rows differ in dtype and do not compare.") == 6
    assert "MCD round 1, float32" in text and "float32 noise acts like" in text


def test_caveats_follow_the_rows(tmp_path):
    def said(rows):
        found = results.read([write(tmp_path / "r.jsonl", rows)])
        return " ".join(sections.caveats(found, "teacher"))

    assert "96 samples a point" in said([row(num_samples=96)])
    assert "samples a point" not in said([row(num_samples=5000)])
    one = [row(), row("MCD round 1")]
    assert "one temperature" in said(one) and "one temperature" not in said(sweep())
    bare = [row(metrics={"perplexity": estimate(9.0)})]
    assert "N-step NELBO was not measured" in said(bare)


def test_samples_of_one_latent_stand_together(full):
    page = Page(full)
    told = "".join(page.words["summary"])
    assert "4 steps, sample 1" in told and "16 steps, sample 2" in told
    assert "the same place is the same latent" in full
    first = full.index("4 steps, sample 1")
    group = full[first : full.index("4 steps, sample 2")]
    for name in ("teacher", "MCD round 1", "MCD round 2"):
        assert f"the first of {name} at 4" in group
    assert "a second of" not in group


def test_one_lonely_row_makes_a_page(tmp_path):
    text = made(tmp_path, [row()])
    page = Page(text)
    assert 'id="compared"' not in text and len(page.tables) >= 2


def test_a_row_without_any_figure_makes_a_page(tmp_path):
    bare = row(metrics={}, corpus={}, texts=[], recipe=None, evaluator=None)
    text = made(tmp_path, [bare, {**bare, "model": "other"}])
    Page(text)
    for said in ("No figure over steps", "No frontier", "hold no texts"):
        assert said in text


def test_the_reference_is_the_teacher_or_the_one_asked_for(tmp_path):
    rows = sweep(models=("MCD round 1", "teacher"))
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    assert compare.reference_of(found) == "teacher"
    assert compare.reference_of(found, "MCD round 1") == "MCD round 1"
    with pytest.raises(ConfigError, match="--reference nobody .* MCD round 1, teacher"):
        report.page(found, reference="nobody")


# What comes from outside ------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.text(min_size=1, max_size=20))
def test_no_text_breaks_out_of_the_page(sample, name):
    told = {"model": name, "evaluator": name, "checkpoint": sample, "commit": sample}
    made_ = {**row(texts=[sample], recipe={name: sample}), **told}
    points = [results.Point(made_, "r.jsonl, line 1", name)]
    text = report.page(results.Results(points))
    page = Page(text)
    text.encode("utf-8")
    (shown,) = [a for a in page.all("p") if a.get("class") == "sample"]
    assert shown["dir"] == "auto"
    expected = Page("<p>" + markup.text(sample) + "</p>").words.get("p", [])
    assert "".join(expected) in "".join(page.words["p"])


def test_hostile_samples(tmp_path):
    bad = "</p><script>alert(1)</script><style>*{}</style>&amp; \x00\ud800\u202e$title"
    text = made(tmp_path, [row(texts=[bad], model='"><b onload=x>')], title="<i>")
    page = Page(text)
    assert not page.all("script") and not page.all("b") and len(page.all("style")) == 1
    assert "&lt;script&gt;" in text and "$title" in text and "&amp;amp;" in text
    assert not re.search("[\x00\ud800\u202e]", text)


# The command ------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", sweep(), tail='{"schema"')
    out = tmp_path / "page.html"
    assert main.main(["report", str(path), "--out", str(out), "--title", "A & B"]) == 0
    said = capsys.readouterr()
    assert "line 28 is cut short" in said.err and "27 rows" in said.out
    assert "<title>A &amp; B</title>" in out.read_text("utf-8")
    first = out.read_text("utf-8")
    assert main.main(["report", str(path), "--out", str(out), "--title", "A & B"]) == 0
    assert out.read_text("utf-8") == first
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_the_command_refuses_in_a_sentence(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", sweep())
    out = tmp_path / "none" / "page.html"
    assert main.main(["report", str(path), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and "Traceback" not in said
