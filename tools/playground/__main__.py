"""Opens a page to play with, in the browser.

python -m tools.playground
python -m tools.playground --model runs/ve/mnist

Draws digits of a class or any, completes and restores what you draw, and lets points flow through
the score in the plane, while you watch. Needs Gradio: pip install -r requirements-playground.txt
"""

import argparse
import dataclasses
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scorax.utils import command_line, programs

if TYPE_CHECKING:
    from scorax.tools.playground.studio import Studio

_ROOT = Path(__file__).resolve().parents[2]
# What comes with the repository: name -> weights, and the config that says how to condition
SHIPPED = {"digits": ("mnist_ve", "ve/mnist"), "photographs": ("photographs_ve", "ve/photographs")}


def _parser() -> command_line.Parser:
    parser = command_line.Parser(
        "python -m tools.playground",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="a run, or exported weights, instead of those shipped")
    parser.add_argument("--config", help="its config, where the weights come without one")
    parser.add_argument("--classifier", help="a noise classifier that guides it to classes")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: loopback)")
    parser.add_argument("--port", type=int, default=7860, help="0: any free port (default: 7860)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser


def run(argv: list[str]) -> None:
    """Loads the networks and serves the page until it is stopped."""
    arguments = _parser().parse_args(argv[1:])
    if not 0 <= arguments.port < 2**16:
        raise ValueError(f"--port={arguments.port} is no port; give 0 to 65535")
    if (arguments.config or arguments.classifier) and not arguments.model:
        raise ValueError("--config and --classifier belong to a network; name it with --model")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise ValueError(
            "the page needs Gradio: pip install -r requirements-playground.txt"
        ) from None
    print("loading the network ...", flush=True)
    from scorax.tools.playground import markup, page

    programs.keep_compiled()
    networks = _networks(arguments)
    try:
        shown = page.build(networks)
        _, url, _ = shown.launch(
            server_name=arguments.host,
            server_port=arguments.port or _free_port(arguments.host),
            inbrowser=arguments.open,
            css=markup.CSS,
            footer_links=[],
            ssr_mode=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as e:
        raise ValueError(
            f"--host={arguments.host} --port={arguments.port} cannot be served, or is in use; "
            "choose another, or --port=0 for any"
        ) from e
    print(f"open {url} in a browser; Ctrl-C stops it", flush=True)
    shown.block_thread()


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def _networks(arguments: argparse.Namespace) -> dict[str, Callable[[], "Studio"]]:
    if not arguments.model:
        return {
            name: functools.partial(load_studio, str(_ROOT / "pretrained" / weights), config, None)
            for name, (weights, config) in SHIPPED.items()
        }
    name = os.path.basename(os.path.normpath(arguments.model))
    load = functools.partial(load_studio, arguments.model, arguments.config, arguments.classifier)
    return {name: load}


def load_studio(path: str, config: str | None, classifier: str | None) -> "Studio":
    """Loads a network, with the classifier that guides it to classes.

    Raises:
      ValueError: if it cannot be loaded, or does not draw images.
    """
    import scorax  # late, because a wrong command line needs no JAX
    from scorax.tools.playground.studio import Studio

    model = scorax.load(path, config)
    fields = model.config.copy_and_resolve_references()
    if classifier is not None:
        fields.guidance.classifier = classifier
    elif fields.guidance.classifier and not os.path.isabs(fields.guidance.classifier):
        fields.guidance.classifier = str(_ROOT / fields.guidance.classifier)
    experiment = dataclasses.replace(model.experiment, config=fields)
    return Studio(scorax.loading.Model(experiment, model.state))


if __name__ == "__main__":
    command_line.run_tool(run)
