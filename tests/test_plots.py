"""The style of plots: colours that can be told apart, opaque, and settings that stay inside."""

import itertools

import matplotlib
import numpy as np
import pytest

from scorax.utils.plots import COLORS, plot, style

# What people without red, green or blue cones see: Machado et al. 2009, severity 1, of linear RGB.
BLIND = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def linear(color):
    c = np.array(matplotlib.colors.to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("matrix", [np.eye(3), *BLIND.values()], ids=["all", *BLIND])
def test_the_first_five_colours_differ_for_everybody(matrix):
    seen = [np.clip(matrix @ linear(color), 0, 1) ** (1 / 2.2) for color in COLORS[:5]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1


def test_a_plot_is_opaque_and_leaves_the_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    shown = []
    picture = plot(1, 2, lambda axes: shown.extend(ax.plot([0, 1])[0] for ax in axes), (3.0, 2.0))
    assert picture.shape == (200, 600, 3) and (picture[0, 0] == 255).all()
    assert [line.get_color() for line in shown] == [COLORS[0]] * 2
    assert dict(matplotlib.rcParams) == before
    assert set(style()) <= set(before)
