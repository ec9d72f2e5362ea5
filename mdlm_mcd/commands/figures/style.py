"""Give all pictures one look: Okabe and Ito's colours, and never colour alone.

Every colour goes with a shape, a hatch, a line style or a word of its own, so that a
picture survives a grey printer and eyes that do not tell red from green.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import jinja2

from ...errors import ConfigError

MARK = "mdlm-mcd figures"  # in every file that is written, to know it again

# Okabe & Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, SKY = "#D55E00", "#56B4E9"
RUST = "#A84A00"  # vermilion, dark enough for letters
INK, SOFT, RULE, PAPER = "#1a1a1a", "#595959", "#b8b8b8", "#ffffff"
HIDDEN, SHOWN = "#8c8c8c", "#d6e8f3"  # a token that is masked, and one that is not

# What the pictures speak of: the discrete process, the Gaussian one, and Eq. 14.
DISCRETE, LATENT = BLUE, ORANGE
TERMS = {"KL": ORANGE, "CE": GREEN, "none": "#e4e4e4"}
HATCHES = {"KL": "////", "CE": "---", "none": ""}
MARKERS = {"KL": "D", "CE": "s", "none": "o"}
LINES = ((SKY, ":"), (GREEN, "-."), (VERMILION, "--"), (BLUE, "-"))

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    # The same bytes in every run: no date, no random ids, letters as paths.
    "svg.hashsalt": "mdlm-mcd",
    "svg.fonttype": "path",
    "path.simplify_threshold": 0.4,
}


def require_matplotlib() -> None:
    """Raise ConfigError with the remedy when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The figure needs matplotlib, which is not installed: pip install 'mdlm-mcd[demo]'."
        ) from error


@contextmanager
def look():
    """Give matplotlib `RC` alone, whatever its user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def save(figure, out: Path, name: str, title: str, alt: str) -> list[Path]:
    """Write `name`.svg and `name`.png into the folder `out`, the alt text inside both."""
    svg, png = out / f"{name}.svg", out / f"{name}.png"
    facts = {"Title": title, "Description": alt}
    figure.savefig(svg, metadata={"Date": None, "Creator": MARK, **facts})
    figure.savefig(png, dpi=160, metadata={"Software": MARK, **facts})
    return [svg, png]


def render(template: str, **values) -> str:
    """Fill a template of this folder; values are escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = Path(__file__).with_name(template).read_text("utf-8")
    return environment.from_string(text).render(**values)
