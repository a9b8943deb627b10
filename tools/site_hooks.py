"""Hooks of mkdocs.yml: links that leave docs/ become text, and the page of the API is filled.

Pages link to files of the repository (`../configs/ve/mnist.py`), which are not part of the site.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")
MODULES = (
    "sde_lib",
    "sampling",
    "solvers.few_step",
    "solvers.heun",
    "solvers.adaptive",
    "solvers.probability_flow",
    "likelihood",
    "conditioning.posterior",
    "conditioning.operators",
    "conditioning.guidance",
    "conditioning.masks",
    "conditioning.trajectories",
    "conditioning.observations",
    "conditioning.denoising",
    "controllable_generation",
    "losses",
    "noise_levels",
    "loading",
    "run_lib",
    "data_sources.dynamics",
    "metrics.filtering",
    "metrics.series",
    "metrics.image_pairs",
    "utils.embeddings",
)


def on_startup(**_: Any) -> None:
    """Shows the repository to mkdocstrings under the name of the package, by a link."""
    folder = Path(tempfile.mkdtemp())
    (folder / "scorax").symlink_to(ROOT)
    sys.path.insert(0, str(folder))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Takes links out of docs/ away, and fills the page of the API."""
    if page.file.src_uri == "api.md":
        return markdown + "".join(f"\n::: scorax.{name}\n" for name in MODULES)
    return OUTSIDE.sub(r"\1", markdown)
