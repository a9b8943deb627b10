"""Every experiment: its values beside the original's, its size, its smoke variant, and its line in
docs/configs.md."""

import copy
import csv
import dataclasses
import functools
import hashlib
import json
import math
import re

import jax
import numpy as np
import pytest

import golden
import runs
from scorax import experiment, losses, run_lib, sde_lib
from scorax.configs import base, parts
from scorax.datasets import get_dataset
from scorax.tools import list_configs
from scorax.weights.state_dicts import published_names
from slow import but_slow

NAMES = list_configs.names()
FAST = {"ve/mnist", "vp/mnist", "subvp/mnist"}  # one for each SDE
# Another SDE, discrete training, another sampler than in the runs of ve/mnist elsewhere.
TRAINED = ["vp/mnist", "ve/cifar10_ncsnpp", "edm/mnist"]


# For each config that score_sde could build, the number of parameters and the SHA-256 of the lines
# "name (shape)" of its Flax tree, sorted and joined by newlines.
PUBLISHED = json.loads((golden.FOLDER / "param_trees.json").read_text())
PARAMETERS = {name.removesuffix(".py"): tree["count"] for name, tree in PUBLISHED.items()}

with open(golden.FOLDER / "score_sde_configs.csv") as f:
    ORIGINAL = {values["config"]: values for values in csv.DictReader(f)}
# Where the original could not run: training.loss was set instead of sde; a name was misspelt.
REPAIRED = {
    ("ve/ncsn/celeba", "training.sde"): "vesde",
    ("ve/ncsnv2/bedroom", "training.continuous"): "False",
}


@pytest.fixture(autouse=True)
def any_number_of_devices(monkeypatch):
    """Batches of published sizes need not split over the devices of this test."""
    monkeypatch.setattr(experiment.parallel, "local_batch_size", lambda size, *rest: size)


def load(name, variant=""):
    return list_configs.load(name, variant)[1]


def flatten(tree, prefix=""):
    """Of nested dicts, {"section.key": value}."""
    flat = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def page_rows():
    """name -> cells of its line in docs/configs.md, by column."""
    lines = [x for x in list_configs.PAGE.read_text().splitlines() if x.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    return {re.match(r"\[`(.*)`\]\(../configs/\1.py\)$", row["config"])[1]: row for row in rows}


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_has_the_keys_of_the_base(name, variant):
    assert (
        flatten(load(name, variant).to_dict()).keys() == flatten(base.get_config().to_dict()).keys()
    )


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="unknown config variant 'smok'; write FILE or FILE:smoke"):
        load("ve/mnist", "smok")


PARTS = [name for name, f in vars(parts).items() if hasattr(f, "__wrapped__")]
ARGUMENTS = {
    "series": (24, 3, 8),
    "small": (2400,),
    "pixels_256": ("lsun", "bedroom"),
    "ncsnv2": ("ncsnv2_64",),
}


def apply(*names):
    config = base.get_config()
    for name in names:
        getattr(parts, name)(config, *ARGUMENTS.get(name, ()))
    return config


def values_or_refusal(*names):
    try:
        return flatten(apply(*names).to_dict())
    except ValueError as e:
        assert all(f"parts.{name}(c)" in str(e) for name in names)
        return None


@pytest.mark.parametrize("first", PARTS)
def test_two_parts_commute_or_come_in_one_order_only(first):
    for second in PARTS:
        one, other = values_or_refusal(first, second), values_or_refusal(second, first)
        assert one is None or other is None or one == other, second


REFUSED = {
    ("ve", "mnist", "vp"): "parts.vp(c) comes after parts.ve(c), but a config takes one part for "
    "the SDE; leave one of the two out",
    ("mnist", "ve"): "parts.ve(c) comes after parts.mnist(c), which builds on it; call it before "
    "that, as parts come in the order SDE, network, noise levels, data, ",
    ("small", "photographs"): "parts.photographs(c) comes after parts.small(c), which builds on it",
    ("vp", "cifar10", "classifier"): "parts.classifier(c), which calls parts.ve(c), comes after "
    "parts.vp(c), but a config takes one part for the SDE",
    ("mnist", "deep"): "parts.deep(c) comes after parts.mnist(c), but a config takes one part for "
    "the size",
    ("smoke", "heun"): "parts.heun(c) comes after parts.smoke(c), which builds on it",
}


@pytest.mark.parametrize("names", REFUSED)
def test_part_in_the_wrong_place_is_refused(names):
    with pytest.raises(ValueError, match="^" + re.escape(REFUSED[names])):
        apply(*names)


def test_parts_that_others_call_are_free_of_the_order():
    assert apply("ve", "mnist", "small").sampling.steps == 100
    config = apply("ve", "ncsn", "mnist", "offline_denoiser")
    assert config.training.objective == "last_level" and not config.training.continuous


def test_what_was_applied_is_no_part_of_the_config():
    config = apply("ve", "mnist")
    assert flatten(config.to_dict()).keys() == flatten(base.get_config().to_dict()).keys()
    assert "applied" not in config.to_json()
    assert copy.deepcopy(config) == config


@dataclasses.dataclass(frozen=True)
class ToySDE(sde_lib.VESDE):
    """One more field than configs/base.py has keys."""

    slope: float = 3.0


@dataclasses.dataclass(frozen=True)
class SteepSDE(ToySDE):
    """And that field has no default."""

    slope: float = dataclasses.field(kw_only=True)


def test_field_of_an_sde_without_a_key_keeps_its_default(monkeypatch):
    monkeypatch.setitem(sde_lib.SDES, "toy", ToySDE)
    config = base.get_config()
    config.training.sde, config.model.sigma_max = "toy", 7.0
    assert sde_lib.get_sde(config) == ToySDE(sigma_max=7.0, N=1000, slope=3.0)
    config.model.slope = 5.0
    assert sde_lib.get_sde(config).slope == 5.0


def test_field_of_an_sde_without_key_and_default_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sde_lib.SDES, "steep", SteepSDE)
    config = base.get_config()
    config.training.sde = "steep"
    message = "SteepSDE has a field slope without a default.* model.slope; .* configs/base.py"
    with pytest.raises(ValueError, match=message):
        sde_lib.get_sde(config)


def test_all_39_experiments_of_the_original_are_here():
    assert len(ORIGINAL) == 39 and set(ORIGINAL) <= set(NAMES)


def as_text(value):
    """A value as the original's table has it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", ORIGINAL)
def test_config_has_the_values_of_the_original(name):
    ours = flatten(load(name).to_dict())
    for field, theirs in ORIGINAL[name].items():
        theirs = REPAIRED.get((name, field), theirs)
        unused = field == "model.sigma_max" and ours["training.sde"] != "vesde"
        if field == "config" or theirs == "" or unused:
            continue
        value = ours[field]
        if field == "training.n_iters":
            value += 1  # theirs is one more than the steps meant
        if type(value) in (int, float):
            assert value == float(theirs), field
        else:
            assert as_text(value) == theirs, field


def network_of(name):
    """What decides on the parameters; configs with the same network are built one after another."""
    model = load(name).model
    return str([model[key] for key in ("name", "nf", "ch_mult", "num_res_blocks", "progressive")])


@pytest.mark.parametrize("name", but_slow(sorted(NAMES, key=network_of), FAST.__contains__))
def test_config_builds_at_its_true_size_and_the_page_says_so(name):
    """And its network has the parameters of the published one, name by name."""
    assert list_configs.row(name) in list_configs.PAGE.read_text().splitlines()
    if tree := PUBLISHED.get(f"{name}.py"):
        arrays = published_names(load(name)).values()
        assert sum(math.prod(a.shape) for a in arrays) == tree["count"]
        lines = sorted(f"{a.flax} {published_shape(a)}" for a in arrays)
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == tree["sha256"]


def published_shape(array):
    """A 1x1 convolution is a matrix here and has two more axes there."""
    return (1,) * (len(array.axes) - len(array.shape)) + array.shape


def test_every_config_that_score_sde_could_build_is_in_the_table():
    assert len(PUBLISHED) == 28 and {f.removesuffix(".py") for f in PUBLISHED} <= set(NAMES)


def test_page_has_a_line_for_each_config_and_nothing_else():
    assert list(page_rows()) == NAMES
    text = list_configs.PAGE.read_text()
    assert list_configs.page(re.findall(r"^\| \[`.*$", text, re.MULTILINE)) == text


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks_have_their_number_of_parameters(name):
    count = f"{PARAMETERS[name]:,}"
    assert page_rows()[name]["parameters"] == count
    assert f"{count} parameters." in list_configs.load(name)[0]


PAGE_EXAMPLES = {  # NFE: time steps x (predictor and corrector steps at each)
    "subvp/cifar10_ddpmpp_deep_continuous": "sub-VP, continuous, 1,000; 2.41, 9.57, 2.92, 2.99",
    "vp/ddpm/cifar10_continuous": "VP, continuous, 1,000; , , 3.69, 3.21",
    "ve/cifar10_ncsnpp": "VE, 1,000, 2,000; 2.45, 9.73, , ",
    "ve/celeba_ncsnpp": "VE, 1,000, 2,000; about 2.5, , , ",
    "ve/ffhq_ncsnpp_continuous": "VE, continuous, 4,000; , , , ",
    "ve/ncsn/cifar10": "VE, 10, 1,000; , , , ",
    "ve/ncsn/cifar10_124": "VE, 232, 1,160; , , , ",
    "ve/mnist": "VE, EDM, 200; , , , ",
    "edm/cifar10": "VE, EDM, 35; 1.97, , , ",
}


@pytest.mark.parametrize("name", PAGE_EXAMPLES)
def test_page_shows_training_evaluations_and_published_numbers(name):
    row = page_rows()[name]
    first = ", ".join(row[column] for column in ("SDE", "noise levels", "NFE"))
    last = ", ".join(row[column] for column in ("FID", "IS", "ODE FID", "NLL"))
    assert f"{first}; {last}" == PAGE_EXAMPLES[name]


# Fields that are no part of an update, and numbers of which any value makes the same program.
ANY_VALUE = (
    *("sampling.", "eval.", "guidance.", "optim."),
    *("data.category", "data.random_", "model.ema_", "model.dropout", "model.num_scales"),
    *("model.sigma_", "model.fourier_scale", "training.n_", "training.log_", "training.eval_"),
    *("training.snapshot_freq", "training.p_"),
)
# With `TRAINED`, each SDE, parametrisation, family of networks and kind of label.
UPDATED = {  # one for each kind of loss: score, EDM, DDPM
    *("subvp/cifar10_ncsnpp_continuous", "edm/mnist_conditional", "vp/ddpm/cifar10"),
}


def batch_of(config):
    return get_dataset(config, "train")[0]


@functools.cache
def traced_loss(fields):
    """The shape of the loss of a config with these fields; nothing is compiled."""
    config = base.get_config()
    config.update_from_flattened_dict(dict(fields))
    config.data.random_flip = False  # which only images can be
    built = experiment.build(config)
    state, key = built.state_shapes, jax.random.key(0)
    loss, _ = jax.eval_shape(
        built.loss_fn(train=True), key, state.params, state.model_state, batch_of(config)
    )
    return loss.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smoke_variant_has_a_loss(name):
    config = load(name, "smoke")
    experiment.build(config)
    fields = flatten(config.to_dict()).items()
    # Configs that differ nowhere else have the same loss, which is traced once.
    assert traced_loss(tuple(x for x in fields if not x[0].startswith(ANY_VALUE))) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(UPDATED))
def test_update_of_the_smoke_variant_lowers_the_loss(name):
    config = load(name, "smoke")
    # An update so small that the gradient describes it; the first one of a warm-up would be 0.
    config.optim.lr, config.optim.warmup = 1e-5, 0
    built, batch = experiment.build(config), batch_of(config)
    step = losses.get_step_fn(built.loss_fn(train=True), built.optimizer, config.seed, 0.999)
    step, state = jax.jit(step), built.init_state()
    after, metrics = step(state, batch)
    before = metrics["loss"]
    _, metrics = step(after.replace(step=state.step), batch)  # with the same noise
    assert metrics["loss"] < before
    if config.model.name in ("ncsnpp", "ddpm") and config.training.objective == "score":
        # Their first output is close to 0, so that the loss ||sigma score + z||^2 is ||z||^2.
        values = np.prod(batch["image"].shape)
        examples = len(batch["image"])
        mean_square = before if config.training.reduce_mean else 2 * before * examples / values
        assert abs(mean_square - 1) < 4 * (2 / values) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_smoke_variant_trains_and_samples(name, tmp_path):
    n = load(name, "smoke").training.n_jitted_steps
    training = {"n_iters": 2 * n, "log_freq": 2 * n, "snapshot_freq_for_preemption": 2 * n}
    steps = 25  # with fewer, VP's beta / N would exceed 1
    config = runs.get_config(name, training=training, sampling={"steps": steps})
    state = run_lib.train(config, str(tmp_path))
    assert int(state.step) == 2 * n
    assert (tmp_path / "samples" / f"step_{2 * n}.png").exists()
    assert np.isfinite(runs.scalars(tmp_path, "training_loss")[2 * n])
