"""Writes docs/configs.md, one line for each experiment, from the configs themselves.

python -m tools.list_configs
"""

import argparse
import importlib
import re
from pathlib import Path

import jax
import ml_collections
import tqdm

from scorax import experiment, sampling
from scorax.sde_lib import SDE

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configs.md"
HEAD = """# Experiments

Written by `python -m tools.list_configs` from the files below `configs/`: change those. A config
is used as in `python main.py --config configs/ve/mnist.py --mode train`; its docstring says what is
published and what was run here, and `configs/ve/mnist.py:smoke` is the same pipeline in seconds.

*Noise levels*: those of training, a number for discrete levels (SMLD, DDPM). *NFE*: evaluations of
the network for one sample by the config's own sampler, which denoisers and classifiers have not.
*FID*, *IS* and *NLL* (bits/dim) are published, and come from elsewhere: the docstring names the
source. *ODE FID* is that of the probability-flow ODE. An empty cell: none is published.

"""
COLUMNS = (
    *("config", "data", "size", "SDE", "noise levels", "network", "parameters", "NFE"),
    *("FID", "IS", "ODE FID", "NLL"),
)
SDES = {"vesde": "VE", "vpsde": "VP", "subvpsde": "sub-VP"}
NETWORKS = {"ncsnpp": "NCSN++", "ddpm": "DDPM", "ncsn": "NCSN"}
NETWORKS |= dict.fromkeys(("ncsnv2_64", "ncsnv2_128", "ncsnv2_256"), "NCSNv2")
NETWORKS |= {"denoising_cnn": "small CNN"}
NETWORKS |= {"wideresnet": "WRN classifier", "noise_classifier": "small classifier"}


def names() -> list[str]:
    """All experiments, as "ve/mnist"."""
    folder = ROOT / "configs"
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py")]
    return sorted(path.as_posix() for path in paths if len(path.parts) > 1)


def load(name: str, variant: str = "") -> tuple[str, ml_collections.ConfigDict]:
    """The docstring of an experiment, and its config."""
    module = importlib.import_module(f"scorax.configs.{name.replace('/', '.')}")
    return module.__doc__, module.get_config(variant)


def published(docstring: str) -> dict[str, str]:
    """The numbers in a docstring's sentence "Published: FID 2.55, ODE FID 3.93, NLL 3.16 ..."."""
    sentence = re.search(r"^Published: [^(]*", docstring, re.MULTILINE)
    pairs = re.findall(r"(ODE FID|FID|IS|NLL) ((?:about )?[\d.]+)", sentence[0] if sentence else "")
    return dict(pairs)


def evaluations(config: ml_collections.ConfigDict, sde: SDE) -> int:
    """How often the configured sampler calls the network for one sample."""
    sampler, counts = sampling.get_sampling_fn(config, sde), []

    def sample(rng: jax.Array) -> None:
        counts.append(sampler(rng, lambda x, t: x, (1, 1))[1])

    jax.eval_shape(sample, jax.random.key(0))  # traces the sampler, and does not run it
    return counts[0]


def row(name: str) -> str:
    """The line of an experiment, which is built and checked at its true size.

    Raises:
      ValueError: for a config that cannot be built.
    """
    docstring, config = load(name)
    built = experiment.build(config)
    d, t, m = config.data, config.training, config.model
    levels = "continuous" if t.continuous else f"{m.num_scales:,}"
    if t.objective not in ("score", "classifier"):
        levels = "EDM" if t.objective.startswith("edm") else "1"
    network = "DDPM++" if m.name == "ncsnpp" and not m.fir else NETWORKS.get(m.name, m.name)
    values = published(docstring)
    cells = (
        f"[`{name}`](../configs/{name}.py)",
        f"{d.dataset} {d.category}".strip(),
        f"{d.image_size}x{d.image_size}x{d.num_channels}",
        SDES.get(t.sde, t.sde),
        levels,
        network,
        f"{sum(x.size for x in jax.tree.leaves(built.state_shapes.params)):,}",
        f"{evaluations(config, built.sde):,}" if built.knows_all_levels else "",
        *(values.get(column, "") for column in COLUMNS[-4:]),
    )
    return _line(cells)


def page(rows: list[str]) -> str:
    """The whole page."""
    return HEAD + "\n".join([_line(COLUMNS), "|" + "---|" * len(COLUMNS), *rows]) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Writes the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(page([row(name) for name in tqdm.tqdm(names(), "configs", unit=" configs")]))


if __name__ == "__main__":
    main()
