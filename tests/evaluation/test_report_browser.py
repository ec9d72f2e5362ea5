"""The report in a real Chromium: light and dark, on a phone, by keyboard, on paper.

    pip install 'mdlm-mcd[test,browser]'; pytest -m browser

The browser is the one in MDLM_MCD_BROWSER, one on the path, or playwright's own.
"""

import os
import shutil

import pytest
from synthetic import sweep, write

from mdlm_mcd.evaluation import report, results

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title = 'broken'</script> " + "unbreakable" * 60
NAMES = ("teacher", *(f"MCD round {k}" for k in range(1, 6)))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install 'mdlm-mcd[browser]'"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    on_path = next(filter(None, map(shutil.which, names)), None)
    found = os.environ.get("MDLM_MCD_BROWSER") or on_path
    with playwright.sync_playwright() as driver:
        path = found or driver.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("no Chromium: set MDLM_MCD_BROWSER or run playwright install")
        started = driver.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = sweep(NAMES, (4, 8, 16, 128))
    rows[0]["texts"] = [HOSTILE, "שלום עולם, 日本語"]
    del rows[-1]["metrics"]["n_step_nelbo"], rows[-3]["metrics"]["perplexity"]
    path = write(folder / "r.jsonl", rows)
    (folder / "report.html").write_text(report.page(results.read([path])), "utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def visit(browser, address):
    """`visit(width, ...)`: the page, opened; it must not complain or ask."""
    contexts, printed, asked = [], [], []

    def go(width=1280, **how):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, **how))
        page = contexts[-1].new_page()
        page.on("console", lambda message: printed.append(message.text))
        page.on("pageerror", lambda error: printed.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not printed
    assert {url for url in asked if not url.startswith("data:")} == {address}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit, scheme):
    page = visit(color_scheme=scheme)
    ground, ink, line = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
                  getComputedStyle(document.body).color,
                  getComputedStyle(document.querySelector('.chart [style*="--c0"]')).stroke]"""
    )

    def light(colour):
        return sum(map(int, colour.strip("rgb()").split(",")[:3])) / 3

    assert (light(ground) > 200) == (scheme == "light")
    assert (light(ground) > light(ink)) == (light(ground) > light(line))
    assert abs(light(ground) - light(ink)) > 150
    assert page.title() != "broken"


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out_sideways(visit, width):
    page = visit(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide, inside = page.evaluate(
        """() => {
            const edge = document.documentElement.clientWidth;
            const out = [...document.querySelectorAll('main *')].filter(e =>
                e.getBoundingClientRect().right > edge + 1
                && !e.closest('.scroll') && !e.closest('svg'));
            return [document.documentElement.scrollWidth, out.map(e => e.outerHTML)];
        }"""
    )
    assert wide == width and not inside
    captions = page.evaluate(
        """() => [...document.querySelectorAll('caption span')].map(e =>
            e.getBoundingClientRect().right)"""
    )
    assert captions and max(captions) <= width  # read without scrolling a table


def test_by_keyboard(visit):
    """Tab reaches every link, region and summary, in the order of the page, visibly."""
    page = visit(375)
    wanted = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('a[href], .scroll, summary')];
            const shown = all.filter(e => e.checkVisibility()
                && !(e.closest('details:not([open])') && e.tagName !== 'SUMMARY'));
            shown.forEach((e, i) => e.dataset.order = i);
            return shown.length;
        }"""
    )
    assert wanted > 20
    for k in range(wanted):
        page.keyboard.press("Tab")
        order, outline = page.evaluate(
            """() => [document.activeElement.dataset.order,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        assert order == str(k) and outline == "solid"


def test_without_script_and_on_paper(visit):
    page = visit(java_script_enabled=False)
    assert page.get_by_role("heading", level=1).is_visible()
    page.locator("#provenance summary").first.click()  # details need no script
    assert page.locator("#rows").is_visible()
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    printed = page.evaluate(
        """() => [getComputedStyle(document.documentElement)
                    .getPropertyValue('--paper').trim(),
                  document.querySelector('#rows').checkVisibility()]"""
    )
    assert printed == ["#ffffff", True]  # closed details are printed
