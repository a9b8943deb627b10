"""Series of your own, from a CSV, Parquet or npz file, with the recipe of ImagenTime.

    python main.py --config configs/edm/series.py --mode train --config.data.dir=FILE.csv \\
        --config.data.num_channels=3

Windows of 24 points become images of 8x8, as in ImagenTime. For longer windows change data.length,
data.delay and data.image_size together, to 96, 3 and 32 for example. docs/time_series.md has more.
"""

import ml_collections

from scorax.configs import base, parts


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config; variants: "smoke", tiny, of sines; "complete" for series with gaps."""
    c = base.get_config()
    parts.ve(c)
    parts.ncsnpp(c)
    parts.series(c, 24, 3, 8)
    parts.edm(c)
    parts.heun(c)
    c.model.sigma_min = 0.002
    c.model.sigma_max = 80.0
    return parts.finish(c, variant)
