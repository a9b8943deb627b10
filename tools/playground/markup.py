"""The HTML of the page: pictures that can be stepped through, and what is said below them."""

import base64
import html
import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from scorax.tools.playground.studio import Moment

CSS = """
.playground figure { margin: 0 0 1rem; }
.playground figure img { image-rendering: pixelated; width: 100%; max-width: 560px; display: block;
  background: #000; border-radius: 4px; }
.playground figure.plot img { image-rendering: auto; background: #fff; }
.playground figure.small img { max-width: 200px; }
.playground figcaption, .playground figure label { display: block; margin-top: .4rem; }
.playground input[type=range] { width: 100%; max-width: 560px; display: block; height: 2rem; }
.playground [role=alert] { border-left: 4px solid #d55e00; padding-left: .6rem; font-weight: 600; }
"""
_MOVE = (  # JavaScript of a slider
    "const f = JSON.parse(this.dataset.frames), i = this.closest('figure').querySelector('img');"
    "i.src = 'data:image/png;base64,' + f[this.value]"
)


def png(pixels: np.ndarray) -> str:
    """A picture of bytes, (H, W, 3), as a PNG file in base 64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def figure(frames: Sequence[str], what: str, caption: str, kind: str = "") -> str:
    """Pictures of `png`, the last one shown, with a slider if there are several.

    Args:
      frames: the pictures.
      what: what they show, for screen readers.
      caption: stands below.
      kind: "plot" or "small" for the style sheet.
    """
    alt = html.escape(", ".join(filter(None, (what, caption))))
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    if len(frames) > 1:
        last = len(frames) - 1
        below += (
            f"<label>From noise to data<input type=range min=0 max={last} value={last} "
            f"data-frames='{json.dumps(list(frames))}' oninput=\"{_MOVE}\"></label>"
        )
    image = f'<img src="data:image/png;base64,{frames[-1]}" alt="{alt}">'
    return f'<figure class="{kind}">{image}{below}</figure>'


def say(text: str) -> str:
    """A line of the status."""
    return f"<p>{html.escape(text)}</p>"


def alert(text: str) -> str:
    """What went wrong, as a sentence that a screen reader says at once."""
    sentence = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    return f'<p role="alert">{html.escape(sentence)}</p>'


def compiling(moment: Moment) -> str:
    """The status while a sampler compiles."""
    return say(f"Compiling the sampler, which happens once: {moment.seconds:.0f} s …")


def done(what: str, moment: Moment) -> str:
    """The status after a run: what it cost."""
    took = f"{moment.seconds - moment.compile_seconds:.1f} s"
    if moment.compile_seconds > 0.1:
        took += f", after {moment.compile_seconds:.1f} s of compiling"
    return say(f"{what}: {moment.nfe} evaluations of the score each, {took}.")
