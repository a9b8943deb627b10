"""The page: tabs that draw, complete and restore images, and one for points in the plane.

Pictures are part of the page itself: nothing is written to disk.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from scorax.conditioning import MASKS, get_mask
from scorax.data_sources.points import POINTS
from scorax.tools.playground.canvas import RED, read_canvas, to_canvas
from scorax.tools.playground.links import get_link_js, get_updates
from scorax.tools.playground.markup import alert, compiling, done, figure, png, say
from scorax.tools.playground.plane import MOST as MOST_POINTS
from scorax.tools.playground.plane import SDES, Plane
from scorax.tools.playground.studio import MOST, OPERATORS, How, Moment, Studio, methods
from scorax.utils.images import make_grid

SIDE, BRUSH = 280, 12  # pixels of the canvas, and of the radius of its brush
PAINTED = "red paint, or else the lower half"
EMPTY = "an empty canvas"
ANY = "any"
_PLAYED = 24  # pictures of moving points
_PAUSE = 0.05  # seconds between two pictures that are sent

# Readers of screens are told what the status says, and only that.
READY_JS = """() => {
  document.querySelectorAll('.status').forEach(e => e.setAttribute('aria-live', 'polite'));
}"""

Outputs = tuple[Any, Any]  # of a run: the pictures, the status


def build(networks: Mapping[str, Callable[[], Studio]]) -> gr.Blocks:
    """Makes the page.

    Args:
      networks: name -> a function that loads the network when it is first asked for; the first is
        shown when the page opens.
    """
    studios: dict[str, Studio] = {}

    def studio_of(network: str) -> Studio:
        if network not in networks:
            raise ValueError(f"{network!r} is no network; choose from: {', '.join(networks)}")
        if network not in studios:
            studios[network] = networks[network]()
        return studios[network]

    first = studio_of(next(iter(networks)))
    plane = Plane()
    with gr.Blocks(title="scorax playground", analytics_enabled=False) as page:
        gr.Markdown(
            "# scorax playground\nDraw with a score-based diffusion model, and watch noise become "
            "data. Everything runs on the computer that serves this page."
        )
        with gr.Row(elem_classes="playground"):
            network = gr.Dropdown(list(networks), label="Network", interactive=True)
            sampler = gr.Dropdown(methods(), value="dpmpp_2m_sde", label="Sampler")
            steps = gr.Slider(1, 200, value=20, step=1, label="Steps")
            seed = gr.Number(0, label="Seed")
        common = {"network": network, "sampler": sampler, "steps": steps, "seed": seed}
        with gr.Tabs() as tabs:
            tabs_of = [
                _drawing(studio_of, first, common),
                _completion(studio_of, first, common),
                _restoration(studio_of, first, common),
                _points(plane, common),
            ]
        controls = common | {name: c for tab in tabs_of for name, c in tab.controls.items()}
        with gr.Accordion("Link to these settings", open=False):
            link = gr.Textbox(label="Link", buttons=["copy"], interactive=False)
            notice = gr.HTML(elem_classes="playground status")
        for tab in tabs_of:
            linked = common | tab.controls
            link_js = get_link_js(tab.name, list(linked))
            tab.button.click(None, list(linked.values()), link, js=link_js)
            tab.run()

        def open_link(request: gr.Request) -> list[Any]:
            return get_updates(str(request.query_params), [tab.name for tab in tabs_of], controls)

        def open_canvases(network: str, *starts: str) -> list[dict[str, Any]]:
            return [_start(studio_of(network), start) for start in starts]

        drawn_on = [tab for tab in tabs_of if tab.canvas is not None]
        # Once: after two pictures in quick succession a canvas may have no layer to paint on.
        page.load(open_link, None, [tabs, notice, *controls.values()], js=READY_JS).then(
            open_canvases,
            [network, *(tab.starts for tab in drawn_on)],
            [tab.canvas for tab in drawn_on],
        )
        _follow_network(network, studio_of, tabs_of[0], drawn_on)
    return page


class _Tab:
    """A tab: its controls by their names in links, and what its button does."""

    def __init__(self, name: str, title: str, label: str) -> None:
        self.name, self.label = name, label
        self.tab = gr.Tab(title, id=name, elem_classes="playground")
        self.controls: dict[str, gr.components.Component] = {}
        self.starts: gr.Dropdown | None = None
        self.canvas: gr.ImageEditor | None = None

    def finish(self, draw: Callable[..., Iterator[Outputs]], inputs: Sequence[Any]) -> None:
        """Adds the buttons, the place of the pictures, and the status."""
        with gr.Row():
            self.button = gr.Button(self.label, variant="primary", elem_id=f"{self.name}-run")
            self.stop = gr.Button("Stop", elem_id=f"{self.name}-stop")
        self.status = gr.HTML(elem_id=f"{self.name}-status", elem_classes="playground status")
        self.pictures = gr.HTML(elem_id=f"{self.name}-pictures", elem_classes="playground")
        self._draw, self._inputs = draw, inputs

    def run(self) -> None:
        """Connects the buttons. One run at a time, whoever asked for it; others wait."""

        def answer(*values: Any) -> Iterator[Outputs]:
            yield gr.skip(), say("Waiting for the network …")
            try:
                yield from self._draw(*values)
            except (ValueError, FloatingPointError) as e:
                yield gr.skip(), alert(str(e))

        event = self.button.click(
            answer,
            self._inputs,
            [self.pictures, self.status],
            concurrency_id="network",
            concurrency_limit=1,
            show_progress="hidden",
            trigger_mode="multiple",  # a click while an earlier run is being stopped counts
            api_name=self.name,
        )
        self.stop.click(lambda: say("Stopped."), None, self.status, cancels=[event], queue=False)


def _drawing(studio_of: Callable[[str], Studio], first: Studio, common: dict) -> _Tab:
    tab = _Tab("draw", "Draw", "Draw")

    def draw(
        network: str, sampler: str, steps: float, seed: float, n: float, label: str, weight: float
    ) -> Iterator[Outputs]:
        studio = studio_of(network)
        label = "" if label in (ANY, None) else label
        what = f"{n:g} images" + (f" of class {label}" if label else "")
        yield from _show(studio.draw(How(sampler, steps, n, seed), label, weight), what)

    with tab.tab:
        with gr.Row():
            n = gr.Slider(1, MOST, value=36, step=1, label="Images")
            label = gr.Dropdown([ANY, *first.classes], value=ANY, label="Class")
            weight = gr.Number(first.weight, label="Weight of the class", step=0.5)
        tab.controls = {"n": n, "class": label, "weight": weight}
        tab.finish(draw, [*common.values(), n, label, weight])
    return tab


def _canvas(
    tab: _Tab,
    studio_of: Callable[[str], Studio],
    first: Studio,
    network: gr.Dropdown,
    label: str,
) -> tuple[gr.Dropdown, gr.ImageEditor]:
    """A canvas, and above it a choice of what is on it at first."""
    tab.starts = gr.Dropdown(_starts(first), value=EMPTY, label="Start from")
    tab.canvas = gr.ImageEditor(
        label=label,
        brush=gr.Brush(default_size=BRUSH, colors=["#ffffff", RED], color_mode="fixed"),
        eraser=gr.Eraser(default_size=BRUSH),
        layers=False,
        transforms=(),
        sources=("upload", "clipboard"),
        canvas_size=(SIDE, SIDE),
        fixed_canvas=True,
        format="png",
        elem_id=f"{tab.name}-canvas",
    )
    tab.starts.input(
        lambda network, name: _start(studio_of(network), name), [network, tab.starts], tab.canvas
    )
    return tab.starts, tab.canvas


def _starts(studio: Studio) -> list[str]:
    return [EMPTY, *(f"example {i + 1}" for i in range(len(studio.examples)))]


def _start(studio: Studio, name: str) -> dict[str, Any]:
    """What is on a canvas at first: a background, and a layer to paint on."""
    names = _starts(studio)
    image = np.zeros(studio.model.shape)
    if name in names[1:]:
        image = studio.examples[names.index(name) - 1]
    background = to_canvas(image, SIDE)
    layer = np.zeros((*background.shape[:2], 4), np.uint8)
    return {"background": background, "layers": [layer], "composite": background}


def _completion(studio_of: Callable[[str], Studio], first: Studio, common: dict) -> _Tab:
    tab = _Tab("complete", "Complete", "Complete")

    def complete(
        network: str,
        sampler: str,
        steps: float,
        seed: float,
        n: float,
        mask: str,
        canvas: dict,
    ) -> Iterator[Outputs]:
        studio = studio_of(network)
        image, hidden = read_canvas(canvas, studio.model.shape)
        how = How(sampler, steps, n, seed)
        if mask != PAINTED or not hidden.any():
            name = "bottom_half" if mask == PAINTED else mask
            hidden = get_mask(name, image.shape[:2], seed=int(seed))[..., 0] == 0
        moments = studio.complete(how, image, hidden)
        given = np.where(hidden[..., None], 0.5, image)
        yield from _show(moments, f"{n:g} completions", given, "What the network is given")

    with tab.tab:
        gr.Markdown(
            "Draw in white. The network fills in what you paint red, or the part that you choose; "
            "the rest stays as it is."
        )
        with gr.Row():
            with gr.Column():
                starts, canvas = _canvas(tab, studio_of, first, common["network"], "Your picture")
            with gr.Column():
                mask = gr.Dropdown([PAINTED, *MASKS], value=PAINTED, label="Hidden part")
                n = gr.Slider(1, MOST, value=16, step=1, label="Completions")
        tab.controls = {"completions": n, "hidden": mask, "picture": starts}
        tab.finish(complete, [*common.values(), n, mask, canvas])
    return tab


def _restoration(studio_of: Callable[[str], Studio], first: Studio, common: dict) -> _Tab:
    tab = _Tab("restore", "Restore", "Restore")

    def restore(
        network: str,
        sampler: str,
        steps: float,
        seed: float,
        n: float,
        operator: str,
        size: float,
        noise: float,
        canvas: dict,
    ) -> Iterator[Outputs]:
        studio, how = studio_of(network), How(sampler, steps, n, seed)
        image, _ = read_canvas(canvas, studio.model.shape)
        y, seen = studio.measure(how, image, operator, size, noise)
        moments = studio.restore(how, y, operator, size, noise)
        yield from _show(moments, f"{n:g} restorations", seen, "What the instrument sees")

    with tab.tab:
        gr.Markdown(
            "Sketch something. An instrument sees it coarsely or blurred, with noise, and the "
            "network draws what it may have been."
        )
        with gr.Row():
            with gr.Column():
                starts, canvas = _canvas(tab, studio_of, first, common["network"], "Your sketch")
            with gr.Column():
                operator = gr.Dropdown(list(OPERATORS), value="block_mean", label="Instrument")
                size = gr.Number(4, label="Size of its blocks or blur, in pixels")
                noise = gr.Number(0.05, label="Noise, where white is 1", step=0.01)
                n = gr.Slider(1, MOST, value=16, step=1, label="Restorations")
        tab.controls = {
            "restorations": n,
            "instrument": operator,
            "size": size,
            "noise": noise,
            "sketch": starts,
        }
        tab.finish(restore, [*common.values(), n, operator, size, noise, canvas])
    return tab


def _points(plane: Plane, common: dict) -> _Tab:
    tab = _Tab("points", "Points", "Let them flow")

    def flow(
        sampler: str, steps: float, seed: float, n: float, data: str, sde: str
    ) -> Iterator[Outputs]:
        states: list[tuple[float, np.ndarray]] = []
        for moment in plane.flow(How(sampler, steps, n, seed), data, sde):
            if moment.state is None:
                yield gr.skip(), compiling(moment)
            elif moment.nfe:
                states.append((0.0, moment.state[0]))
            else:
                states.append((float(moment.state[0]), moment.state[1]))
        yield gr.skip(), say("Drawing the pictures …")
        frames: list[str] = []
        what = f"{n:g} points and the score"
        for i in np.unique(np.linspace(0, len(states) - 1, _PLAYED).round().astype(int)):
            t, x = states[i]
            frames.append(png(plane.draw(x, max(t, 1e-3), data, sde)))
            yield figure(frames[-1:], what, f"t = {t:.3f}", "plot"), gr.skip()
        yield figure(frames, what, "", "plot"), done(what, moment)

    with tab.tab:
        gr.Markdown(
            "Points start as noise and follow the score, the arrows, which is known exactly here. "
            "The network chosen above takes no part."
        )
        with gr.Row():
            n = gr.Slider(1, MOST_POINTS, value=500, step=1, label="Points")
            data = gr.Dropdown(list(POINTS), value="gaussians", label="Data")
            sde = gr.Dropdown(list(SDES), value="vpsde", label="SDE")
        tab.controls = {"points": n, "data": data, "sde": sde}
        tab.finish(flow, [*list(common.values())[1:], n, data, sde])
    return tab


def _show(
    moments: Iterator[Moment], what: str, given: np.ndarray | None = None, title: str = ""
) -> Iterator[Outputs]:
    """Pictures and status of a run of images, below what it is given."""
    before = ""
    if given is not None:
        before = figure([png(make_grid(given[None], scale=1))], title, title, "small")
    frames: list[str] = []
    sent = 0.0
    for moment in moments:
        if moment.state is None:
            yield before or gr.skip(), compiling(moment)
            continue
        frames.append(png(make_grid(moment.state[-1], scale=1)))
        if moment.nfe:
            yield before + figure(frames, what, ""), done(what, moment)
        elif time.monotonic() - sent > _PAUSE:
            sent = time.monotonic()
            caption = f"step {moment.state[0]} of {moment.state[1]}"
            yield before + figure(frames[-1:], what, caption), say("Drawing …")


def _follow_network(
    network: gr.Dropdown,
    studio_of: Callable[[str], Studio],
    drawing: _Tab,
    drawn_on: Sequence[_Tab],
) -> None:
    """Shows classes and pictures of the network that is chosen."""
    label, weight = drawing.controls["class"], drawing.controls["weight"]

    def follow(name: str) -> list[Any]:
        studio = studio_of(name)
        some = bool(studio.classes)
        return [
            gr.update(choices=[ANY, *studio.classes], value=ANY, interactive=some),
            gr.update(value=studio.weight, interactive=some),
            *[gr.update(choices=_starts(studio), value=EMPTY) for _ in drawn_on],
            *[_start(studio, EMPTY) for _ in drawn_on],
        ]

    starts, canvases = [tab.starts for tab in drawn_on], [tab.canvas for tab in drawn_on]
    network.input(follow, network, [label, weight, *starts, *canvases])
