"""The command line that shows what a config's values are and what set them."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from scorax import experiment
from scorax.configs import base, parts
from scorax.tools import list_configs, show_config

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "tools.show_config"]


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def cells(text):
    """field -> (value, setter) of the lines of a table."""
    rows = [line.split("  ") for line in text.splitlines()]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    return {row[0]: tuple(row[1:]) for row in rows if len(row) == 3}


def show(get_config, file="", changed=False):
    with show_config.record_setters(file) as setters:
        config = get_config()
    return show_config.table(config, setters, changed)


def load(name, variant=""):
    return lambda: list_configs.load(name, variant)[1]


def line_of(file, text):
    """Number of the line that contains a text."""
    return next(i for i, line in enumerate(Path(file).read_text().splitlines(), 1) if text in line)


@pytest.fixture
def any_number_of_devices(monkeypatch):
    """Batches of published sizes need not split over the devices of this test."""
    monkeypatch.setattr(experiment.parallel, "local_batch_size", lambda size, *rest: size)


def test_every_value_is_shown_with_what_set_it():
    file = str(ROOT / "configs/edm/mnist.py")
    shown = cells(show(load("edm/mnist"), file))
    config = base.get_config()
    fields = {f"{s}.{key}" for s in config if s != "seed" for key in config[s]}
    assert shown.keys() == fields | {"seed"}
    assert shown["seed"] == ("42", "base")
    assert shown["model.beta_max"] == ("20.0", "base")
    assert shown["training.sde"] == ("'vesde'", "ve")  # though it is the default
    assert shown["data.dataset"] == ("'mnist'", "mnist")
    assert shown["model.ch_mult"] == ("(1, 2, 4)", "mnist > small")
    assert shown["model.sigma_data"] == ("0.66", "mnist")
    line = line_of(file, "centered")
    assert shown["data.centered"] == ("True", f"the file, line {line}")


def test_last_of_several_setters_is_shown():
    shown = cells(show(load("edm/mnist")))
    assert shown["model.scale_by_sigma"] == ("False", "edm")  # True, by ncsnpp
    assert shown["training.reduce_mean"] == ("True", "edm")  # False, by ve
    assert shown["sampling.steps"] == ("18", "heun")  # 100, by mnist
    assert cells(show(load("classifier/mnist")))["model.ema_rate"] == ("0.999", "classifier > ve")


def test_config_that_builds_on_another_names_both():
    child, parent = ROOT / "configs/edm/mnist_conditional.py", ROOT / "configs/edm/mnist.py"
    shown = cells(show(load("edm/mnist_conditional"), str(child)))
    line = line_of(child, "guidance.weight =")
    assert shown["guidance.weight"] == ("1.5", f"the file, line {line}")
    line = line_of(parent, "sigma_min =")
    assert shown["model.sigma_min"] == ("0.002", f"configs/edm/mnist.py, line {line}")


def test_changed_values_are_those_unlike_the_base():
    shown = cells(show(load("ve/cifar10_ncsnpp_deep_continuous"), changed=True))
    assert shown == {
        "data.dataset": ("'cifar10'", "cifar10"),
        "model.num_res_blocks": ("8", "deep"),
        "model.progressive_input": ("'residual'", "ncsnpp"),
        "model.scale_by_sigma": ("True", "ncsnpp"),
        "training.n_iters": ("950000", "deep"),
        "training.n_jitted_steps": ("5", "cifar10"),
        "training.reduce_mean": ("False", "ve"),
    }
    assert show(base.get_config, changed=True) == ""


def test_lines_are_aligned_and_grouped_by_section():
    blocks = [block.splitlines() for block in show(base.get_config).split("\n\n")]
    sections = [{line.split()[0].rpartition(".")[0] for line in block} for block in blocks]
    names = ["data", "eval", "guidance", "model", "optim", "parallel", "sampling", "simulation"]
    names.append("training")
    assert sections == [{""}, *({name} for name in names)]
    assert len({len(line) - len("base") for block in blocks for line in block}) == 1


def test_values_that_no_key_of_the_base_has_are_shown():
    def get_config():
        c = base.get_config()
        c.model.extra = 3
        return c

    line = inspect.getsourcelines(get_config)[1] + 2
    assert cells(show(get_config, __file__, changed=True)) == {
        "model.extra": ("3", f"the file, line {line}")
    }


def test_recording_ends_with_its_context():
    with show_config.record_setters("") as setters:
        pass
    parts.ve(base.get_config())
    assert not setters


SUMMARIES = {
    "ve/mnist": ("pc (reverse_diffusion, langevin)", "200", "750,065"),
    "edm/mnist": ("heun", "35", "750,065"),
    "classifier/mnist": ("none, as the network is a classifier of noisy images", "none", "314,378"),
}


@pytest.mark.usefixtures("any_number_of_devices")
@pytest.mark.parametrize("name", SUMMARIES)
def test_summary_has_sampler_evaluations_and_parameters(name):
    lines = show_config.summary(load(name)()).splitlines()
    heads = ("sampler     ", "NFE         ", "parameters  ")
    assert lines == [head + cell for head, cell in zip(heads, SUMMARIES[name], strict=True)]


@pytest.mark.usefixtures("any_number_of_devices")
@pytest.mark.parametrize("method", ["ode", "adaptive_sde"])
def test_evaluations_of_adaptive_samplers_depend_on_the_data(method):
    config = load("ve/mnist")()
    config.sampling.method = method
    assert "\nNFE         data dependent\n" in show_config.summary(config)


def test_command_line_shows_overrides_and_the_smoke_variant():
    fields = ("--config.optim.lr=1e-3", "--config.model.ch_mult=(1,)", "--noconfig.model.fir")
    done = run("ve/mnist:smoke", "--changed", *fields)
    assert done.returncode == 0, done.stderr
    name, *_ = done.stdout.splitlines()
    assert name == "configs/ve/mnist.py:smoke"
    shown = cells(done.stdout)
    assert shown["optim.lr"] == ("0.001", "the command line")
    assert shown["model.ch_mult"] == ("(1,)", "the command line")
    assert shown["model.fir"] == ("False", "the command line")
    assert shown["model.nf"] == ("8", "smoke")
    assert shown["model.ema_rate"] == ("0.99", "mnist > small")
    assert "seed" not in shown and "training.sde" not in shown
    assert "\nNFE         100\nparameters  " in done.stdout


def test_config_that_cannot_be_built_is_shown_before_its_mistake():
    done = run("configs/ve/mnist.py:smoke", "--config.optim.lr=-1")
    assert cells(done.stdout)["optim.lr"] == ("-1.0", "the command line")
    assert (done.returncode, done.stderr) == (2, "error: optim.lr=-1.0 must be at least 0\n")


WRONG = {
    (): "the following arguments are required: FILE; see --help",
    ("ve/mnits",): "No such file or directory: 've/mnits'",
    ("ve/mnist:smok",): "unknown config variant 'smok'; write FILE or FILE:smoke",
    ("README.md",): "",
    (
        "ve/mnist",
        "--config.optim.lrr=1",
    ): "unknown field --config.optim.lrr; did you",
    (
        "ve/mnist",
        "--config.training.n_iters=x",
    ): "flag --config.training.n_iters=x: invalid",
    ("ve/mnist", "--chang"): "Unknown command line flag 'chang'",
    ("ve/mnist", "more"): "'more' belongs to no flag",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_command_line_is_told_in_one_sentence(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {WRONG[arguments]}")
    assert done.stderr.count("\n") == 1


def test_parts_in_the_wrong_order_are_told_in_one_sentence(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from scorax.configs import base, parts\n\n\n"
        'def get_config(variant=""):\n'
        "    c = base.get_config()\n    parts.mnist(c)\n    parts.ve(c)\n"
        "    return parts.finish(c, variant)\n"
    )
    done = run(str(file))
    assert done.stderr.startswith("error: parts.ve(c) comes after parts.mnist(c), which builds on")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
