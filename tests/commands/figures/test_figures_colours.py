"""Colours that survive a grey printer and eyes that tell fewer of them apart."""

import itertools

import pytest
import torch

from mdlm_mcd.commands.figures import data, style


def linear(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return torch.tensor(
        [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    )


def luminance(color):
    return (linear(color) @ torch.tensor([0.2126, 0.7152, 0.0722])).item()


def contrast(a, b):
    """The contrast ratio of WCAG 2: from 1, none, to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB.
BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def lab(rgb):
    """CIELAB, D65, of linear RGB."""
    to_xyz = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = (to_xyz @ rgb.clamp(0, 1)) / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", BLIND)
@pytest.mark.parametrize(
    "colors",
    [
        list(style.TERMS.values()),
        [c for c, _ in style.LINES],
        [style.HIDDEN, style.SHOWN],
        [style.LATENT, style.INK, style.RULE],
    ],
    ids=["terms", "lines", "masked", "path"],
)
def test_colours_stay_apart_for_the_colour_blind(eyes, colors):
    seen = [lab(torch.tensor(BLIND[eyes]) @ linear(c)) for c in colors]
    for a, b in itertools.combinations(seen, 2):
        assert (a - b).norm() > 20  # some ten just noticeable differences


def test_a_grey_printer_keeps_them_apart():
    """Fills by luminance, curves by their dashes, terms by shape and hatch too."""
    for colors in (style.TERMS.values(), (style.HIDDEN, style.SHOWN)):
        for a, b in itertools.combinations(colors, 2):
            assert contrast(a, b) > 1.4
    for looks in (style.MARKERS, style.HATCHES):
        assert len(set(looks.values())) == len(style.TERMS)
    assert len({dash for _, dash in style.LINES}) == len(data.VOCABULARIES)


def test_letters_are_dark_enough():
    for ink, paper in (
        (style.INK, style.PAPER),
        (style.SOFT, style.PAPER),
        (style.RUST, style.PAPER),
        (style.RUST, style.SHOWN),
        (style.INK, style.SHOWN),
        (style.BLUE, style.PAPER),
    ):
        assert contrast(ink, paper) >= 4.5, (ink, paper)
