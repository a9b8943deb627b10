"""Plots: one style for all of them, readable in print, in dark mode and by the colour-blind.

The colours are those of Okabe & Ito (2008), "Color universal design". The background is white and
opaque, so that a plot looks the same on a dark page. matplotlib is imported when it is needed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_INCH = 100  # pixels


def style() -> dict[str, Any]:
    """The settings of matplotlib (`rcParams`) for all plots."""
    from matplotlib import cycler

    return {
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "figure.facecolor": "white",
        "font.size": 9,
        "grid.alpha": 0.25,
        "legend.fontsize": 8,
        "savefig.facecolor": "white",
    }


def plot(
    rows: int,
    columns: int,
    draw: Callable[[Sequence[Any]], None],
    size: tuple[float, float],
) -> np.ndarray:
    """Draws a figure of rows x columns panels, each of a size in inches: uint8 (H, W, 3).

    `draw` is given the axes, a flat list.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(style()):
        figure = Figure((columns * size[0], rows * size[1]), dpi=_INCH, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        draw(axes)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
