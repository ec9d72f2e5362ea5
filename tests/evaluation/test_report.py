"""The report: what stands where, what it claims, and that nothing breaks out."""

import itertools
import re
from html.parser import HTMLParser

import pytest
from synthetic import estimate, row, sweep, write

from mdlm_mcd.commands import main
from mdlm_mcd.evaluation import report, results
from mdlm_mcd.evaluation.report import charts

SVG = {"g", "path", "defs", "use", "text", "title", "desc"}
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A strict reader: every tag is closed in its turn; collects what tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.tables = [], [], []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open
        self.ids = [found["id"] for _, found, _ in self.tags if "id" in found]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), tuple(self.open)))
        self.tables += [""] * (tag == "table")
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
        if "table" in self.open:
            self.tables[-1] += data + "|"

    def all(self, tag):
        return [a for t, a, _ in self.tags if t == tag]


def read(tmp_path, rows, **how):
    return results.read([write(tmp_path / "rows.jsonl", rows)], **how)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(rows)`: their page, without figures, which take long and have tests of their own."""
    monkeypatch.setattr(charts, "matplotlib", None)

    def page(rows, force=False, **how):
        return report.page(read(tmp_path, rows, force=force), **how)

    return page


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return report.page(read(tmp_path_factory.mktemp("report"), sweep()))


# Structure --------------------------------------------------------------------------


def test_the_page_is_one_file_without_script(full):
    page = Page(full)
    sections = [a["id"] for a in page.all("section")]
    assert len(sections) == 8 and sections[0] == "what" and sections[-1] == "provenance"
    linked = [a["href"] for a in page.all("a") if a["href"] != "#main"]
    assert linked == [f"#{s}" for s in sections]
    used = {t for t, *_ in page.tags}
    assert not used & {"script", "iframe", "img", "object", "form", "base"}
    for _, attributes, _ in page.tags:
        assert not [k for k in attributes if k.startswith("on") or k == "src"]
        assert attributes.get("href", "#").startswith(("#", "data:"))
    assert "url(" not in full and "@import" not in full and full.startswith("<!doctype html>")
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_what_a_reader_without_eyes_or_mouse_needs(full):
    page = Page(full)
    assert len(page.ids) == len(set(page.ids))
    for _, attributes, _ in page.tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(page.ids)
    drawn = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawn) == 6  # three over steps, a frontier for each number of steps
    assert all(len(a["aria-labelledby"].split()) == 2 for a in drawn)
    assert all(a.get("role") == "img" or a["aria-hidden"] == "true" for a in page.all("svg"))
    assert "teacher: 500 at 4" in "".join(page.words["desc"])
    regions = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert len(regions) == len(page.tables) == full.count("<caption ")
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
    assert all("scope" in a for a in page.all("th"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    levels = [int(t[1]) for t, *_ in page.tags if re.fullmatch("h[1-6]", t)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_figures_take_their_colours_from_the_page(full):
    style, body = full.split("</style>", 1)
    used = set(re.findall(r"var\((--\w+)\)", body))
    assert {"--c0", "--r0", "--r4", "--ink", "--grid"} <= used
    assert all(style.count(f"{name}: #") == 2 for name in used)  # in light and dark
    assert not re.search(r"#[0-9a-f]{6}\b", body)


def test_without_matplotlib_a_sentence_names_the_extra(made):
    page = Page(made(sweep()))
    assert "pip install 'mdlm-mcd[demo]'" in "".join(page.words["p"])
    assert not page.all("svg") and len(page.tables) == 9


def test_the_nelbo_stands_first_in_every_table_of_figures(full):
    seen = 0
    for text in Page(full).tables:
        if "read from" in text:
            continue  # provenance has no figures
        before = re.split("perplexity|Perplexity|entropy", text.lstrip("\n|").split("|", 1)[1])[0]
        assert "N-step NELBO" in before, text[:200]
        seen += 1
    assert seen == 8


# What it says -----------------------------------------------------------------------


def test_forced_rows_are_marked(made):
    rows = sweep(models=("teacher",)) + sweep(models=("MCD round 1",), dtype="float32")
    text = made(rows, force=True)
    assert text.count("Forced: these rows differ in dtype and do not compare.") == 4
    assert "MCD round 1, float32" in text and "float32 noise acts like" in text


def test_caveats_follow_the_rows(made):
    def caveats(*rows):
        return made(rows).partition("</aside>")[0]

    assert "96 samples a point" in caveats(row(num_samples=96))
    assert "samples a point" not in caveats(row(num_samples=5000))
    assert "one temperature" in caveats(row(), row("MCD round 1"))
    assert "one temperature" not in caveats(*sweep(steps=(4,)))
    bare = caveats(row(metrics={"perplexity": estimate(9.0)}))
    assert "N-step NELBO was not measured" in bare
    assert "<aside" not in made([row(host="mdlm", length=1024, num_samples=5000)])


def test_one_row_makes_a_page(made):
    text = made([row()])
    assert 'id="compared"' not in text and len(Page(text).tables) >= 2


# What comes from outside ------------------------------------------------------------


def test_hostile_samples(tmp_path):
    bad = "</p><script>alert(1)</script><style>*{}</style>&amp; \x00\ud800\u202e{{ title }}"
    names = ('"><b onload=x>$x$\ud800\n</svg>日', "_under", "$", "<i>" * 20)
    rows = [row(texts=[bad], model=name) for name in names]
    text = report.page(read(tmp_path, rows), title="<i>", reference="$")
    page = Page(text)
    assert not [t for t, _, around in page.tags if "svg" in around and t not in SVG]
    assert not page.all("script") and not page.all("b") and len(page.all("style")) == 1
    assert "&lt;script&gt;" in text and "{{ title }}" in text and "&amp;amp;" in text
    assert not re.search("[\x00\ud800\u202e]", text)
    assert any("_under" in words for words in page.words["text"])


# Figures ----------------------------------------------------------------------------


def test_what_a_broken_model_scores_can_be_drawn(tmp_path):
    rows = [
        row(steps=4**k, metrics={"perplexity": estimate(x), "entropy": estimate(y)})
        for k, (x, y) in enumerate(((1e40, 12.0), (1.0, 0.0), (10.0, 3.0)))
    ]
    found = read(tmp_path, rows)
    for panel in charts.over_steps(found, "teacher") + charts.frontier(found, "teacher"):
        assert not re.search(r"\b(nan|inf)\b", panel.svg)
        assert "sampling steps" in panel.svg or "entropy of a sample" in panel.svg


def test_without_figures_sentences_stand_in_their_place(tmp_path):
    bare = row(metrics={}, corpus={}, texts=[], recipe=None, evaluator=None)
    text = report.page(read(tmp_path, [bare, {**bare, "model": "other"}]))
    assert "No figure over steps" in text and "No frontier" in text and "<svg" not in text
    assert "The rows hold no texts" in text


@pytest.mark.parametrize("perplexity, near", [(300.0, True), (1e6, False), (0.0, False)])
def test_held_out_text_far_from_the_samples_is_not_drawn(tmp_path, perplexity, near):
    rows = sweep(("teacher",), (4,), corpus={"perplexity": perplexity, "entropy": 3.7})
    found = read(tmp_path, rows)
    panels = charts.frontier(found, "teacher")
    assert panels and all(bool(p.text) == near for p in panels)
    if perplexity == 1e6:
        assert "Held-out text lies outside" in report.page(found)


def test_curves_differ_without_colour(tmp_path):
    names = ["teacher", *(f"MCD round {k}" for k in range(1, 6))]
    look = charts.looks(read(tmp_path, sweep(names, (4,), (1.0,))), "teacher")
    colours, markers = zip(*(look[n] for n in names), strict=True)
    assert len(set(markers)) == 6 and colours == ("c0", "r0", "r1", "r2", "r3", "r4")


# The command ------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", sweep(("teacher",), (4,)), tail='{"schema"')
    out, none = tmp_path / "page.html", tmp_path / "none" / "page.html"
    how = ["report", str(path), "--title", "A & B", "--out"]
    assert main.main([*how, str(out)]) == 0
    printed = capsys.readouterr()
    assert "line 4 is cut short" in printed.err and "3 rows" in printed.out
    first = out.read_text("utf-8")
    assert "<title>A &amp; B</title>" in first and "<svg" in first
    assert main.main([*how, str(out)]) == 0 and out.read_text("utf-8") == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "r.jsonl"]
    assert main.main([*how, str(none)]) == 1
    printed = capsys.readouterr().err
    assert "cannot be written" in printed and "Traceback" not in printed
