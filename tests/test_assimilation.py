"""The task "assimilate": what it observes, reads, infers and refuses."""

import importlib
import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from scorax import experiment
from scorax.conditioning.observations import OBSERVATIONS
from scorax.configs.parts import VARIANTS
from scorax.evaluators import check
from scorax.evaluators.assimilation import Assimilation
from scorax.utils.fields import upsample
from scorax.utils.options import configured


def config_of(name="kolmogorov.small", **keys):
    config = importlib.import_module(f"scorax.configs.{name}").get_config("smoke")
    config.eval.tasks = ("assimilate",)
    config.update_from_flattened_dict({f"eval.{k}": v for k, v in keys.items()})
    return config


def problem_of(*args, **keys):
    return Assimilation(experiment.build(config_of(*args, **keys)))


# Observations

FIELDS = np.random.default_rng(0).standard_normal((2, 9, 16, 16, 2)).astype(np.float32)
LINEAR = {"component", "coarse", "subsample", "patch", "ring", "loop"}


@pytest.mark.parametrize("name", list(OBSERVATIONS))
def test_observations_are_made_of_each_trajectory_alone(name):
    operator = OBSERVATIONS[name](**configured(OBSERVATIONS[name], config_of(observe_every=4)))
    x = jnp.asarray(FIELDS)
    y = operator(x)
    np.testing.assert_allclose(operator(x[1:])[0], y[1], rtol=1e-6)
    doubled = np.allclose(operator(2 * x), 2 * y, atol=1e-5)
    assert doubled == (name in LINEAR)


def test_what_observations_see():
    config = config_of(observe_every=4, operator_factor=4)
    seen = {
        name: np.asarray(row(**configured(row, config))(jnp.asarray(FIELDS)))
        for name, row in OBSERVATIONS.items()
    }
    np.testing.assert_array_equal(seen["component"], FIELDS[:, ::4, ..., :1])
    np.testing.assert_array_equal(seen["subsample"], FIELDS[:, ::4, ::4, ::4])
    np.testing.assert_allclose(
        seen["coarse"][1, 2, 3, 0], FIELDS[1, 8, 12:, :4].mean((0, 1)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(seen["patch"], seen["coarse"][:, :, 1:3, 1:3])
    np.testing.assert_array_equal(seen["loop"], FIELDS[:, 0] - FIELDS[:, -1])
    assert np.abs(seen["saturation"]).max() < 1
    assert 10 < seen["ring"].shape[1] < 16 * 16 / 4


# The shapes of what the published scenarios observe
SCENARIOS = {
    "coarse": (8, 8, 8, 2),
    "extrapolation": (3, 8, 8, 2),
    "saturation": (8, 32, 32),
    "subsample_2": (8, 32, 32, 2),
    "subsample_4": (8, 16, 16, 2),
    "subsample_8": (8, 8, 8, 2),
    "subsample_16": (8, 4, 4, 2),
    "ring": (612,),
    "loop": (64, 64, 2),
}


@pytest.mark.parametrize("variant", list(VARIANTS["fields"]))
@pytest.mark.parametrize("name", ["small", "default"])
def test_published_scenarios_can_be_built(name, variant):
    module = importlib.import_module(f"scorax.configs.kolmogorov.{name}")
    config = module.get_config(variant)
    config.training.batch_size = 8  # one for each of the virtual devices
    problem = Assimilation(experiment.build(config))
    y = jax.eval_shape(problem.operator, jax.ShapeDtypeStruct((1, *problem.shape), jnp.float32))
    assert y.shape[1:] == SCENARIOS[variant]


def test_a_picture_of_an_observation_has_its_values_where_they_are_about():
    problem = problem_of(observation="component", observe_every=3, observe_component=1)
    x = FIELDS[:, :9, :8, :8]
    shown = problem.to_image(np.asarray(problem.operator(jnp.asarray(x))))
    np.testing.assert_allclose(shown[:, ::3, ..., 1], x[:, ::3, ..., 1], rtol=1e-5)
    assert np.isnan(shown[..., 0]).all() and np.isnan(shown[:, 1]).all()
    coarse = problem_of(observation="coarse", operator_factor=4, observe_every=1)
    constant = coarse.to_image(np.ones((1, 9, 2, 2, 2), np.float32))
    np.testing.assert_allclose(constant, 1)


def test_a_picture_of_vorticity_is_not_taken_for_velocities():
    problem = problem_of(observation="saturation", operator_factor=2, observe_every=1)
    y = np.asarray(problem.operator(jnp.asarray(FIELDS[:, :9, :8, :8])))
    shown = problem.to_image(y)
    np.testing.assert_allclose(shown[..., 0], upsample(y[..., None], 2)[..., 0], rtol=1e-6)
    assert shown.shape == (*y.shape[:2], 8, 8, 1)


def test_a_picture_of_a_patch_is_in_the_middle():
    problem = problem_of(observation="patch", operator_factor=2, observe_every=3)
    shown = problem.to_image(np.ones((1, 3, 2, 2, 2), np.float32))
    assert np.isnan(shown[:, 1]).all()
    expected = np.pad(np.ones((4, 4)), 2, constant_values=np.nan)
    np.testing.assert_array_equal(shown[0, 3, ..., 0], expected)


# Files and mistakes


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_a_file_brings_its_observation_and_noise(tmp_path):
    path = save(
        tmp_path / "mine.npz", y=np.zeros((5, 4, 4, 2)), std=0.3, observation="subsample",
        operator_factor=2, observe_every=1, states=5,
    )  # fmt: skip
    problem = problem_of(measurements=path)
    y, names = problem.read()
    assert y.shape == (1, 5, 4, 4, 2) and names == ["mine"]
    assert problem.std == 0.3 and problem.shape == (5, 8, 8, 2)
    assert problem.settings["observation"] == "subsample"


Y = np.zeros((9, 2, 2, 2), np.float32)


@pytest.mark.parametrize(
    "keys, arrays, message",
    [
        (
            {},
            {"y": np.zeros((3, 3))},
            r"y in .* has the shape \(3, 3\), but 'coarse' of 9 states has",
        ),
        ({}, {"y": np.where(Y == 0, np.nan, Y)}, "y holds values that are not finite"),
        ({}, {"y": np.array(["a"])}, "y holds no numbers"),
        ({}, {"z": Y}, "holds z; it needs y"),
        ({}, {"y": Y, "std": [0.1, 0.2]}, "std must be a single value"),
        ({}, {"y": Y, "observe_every": -1}, "eval.observe_every=-1 must be at least 1"),
        ({}, {"y": Y, "sigma": 1.0}, "holds y, sigma; it needs y, and can have std"),
        (
            {},
            {"y": Y, "observation": "fine"},
            "unknown observation .* 'fine'; choose from: component",
        ),
        ({"states": 2}, None, "eval.states=2 is shorter than the window of 3 states"),
        ({"operator_factor": 3}, None, "blocks of 3 pixels do not divide fields of 8x8"),
        ({"observation": "component", "observe_component": 2}, None, "a state has 2 components"),
        ({"measurement_std": 0.0}, None, "eval.measurement_std=0.0 must be positive"),
        ({"likelihood": ""}, None, "unknown likelihood .* ''; choose from"),
        ({"likelihood": "sda", "gamma": -1.0}, None, "gamma=-1.0 .* at least 0"),
    ],
)
def test_mistakes_are_told(keys, arrays, message, tmp_path):
    if arrays is not None:
        keys = {"measurements": save(tmp_path / "y.npz", **arrays)}
    with pytest.raises(ValueError, match=message):
        check(experiment.build(config_of(**keys)))


def test_files_that_are_none_are_told(tmp_path):
    (tmp_path / "y.npz").write_bytes(b"no zip")
    for path in (tmp_path / "y.npz", tmp_path / "none.npz", tmp_path):
        with pytest.raises(ValueError, match="is no npz file of observations"):
            problem_of(measurements=str(path))


def test_an_even_window_has_no_middle():
    config = config_of()
    config.data.length = 4
    with pytest.raises(ValueError, match="data.length=4: .* odd number of states"):
        Assimilation(experiment.build(config))


# From the command line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lorenz63", "kolmogorov"])
def test_a_trained_network_infers_trajectories(name, cache, tmp_path):
    path = f"configs/{name}/small.py:smoke"
    common = [sys.executable, "main.py", "--config", path, "--workdir", str(tmp_path)]
    task = ["--mode", "eval", "--config.eval.tasks=assimilate", "--config.eval.states=5"]
    for arguments in (["--mode", "train"], task):
        runs.finish(runs.start([*common, *arguments], runs.environment(cache)))
    (folder,) = (tmp_path / "eval").iterdir()
    report = json.loads((folder / "report.json").read_text())["assimilate"]
    assert report["states"] == 5 and report["residual"] > 0
    with np.load(folder / "assimilate.npz") as z:
        assert z["samples"].shape[:3] == (1, 8, 5)
        assert z["originals"].shape[1] == 5
    assert (folder / "assimilate.png").exists()
    if name == "kolmogorov":
        assert (folder / "assimilate.gif").exists()
    else:
        assert report["samples"]["log_prior_of_truth"] > report["samples"]["log_prior"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_is_enough(tmp_path):
    """Where progress is shown, large arrays are copied while the program waits for them."""
    fields = {
        "tasks": "assimilate",
        "checkpoint": "pretrained/kolmogorov",
        "measurements": "pretrained/observations/kolmogorov_extrapolation.npz",
        "samples_per_image": 2,
        "batch_size": 2,
    }
    command = ["main.py", "--config", "configs/kolmogorov/small.py:extrapolation", "--mode", "eval"]
    command += ["--workdir", str(tmp_path), "--config.sampling.steps=4"]
    command += [f"--config.eval.{name}={value}" for name, value in fields.items()]
    only = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    only += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    runs.finish(runs.start([sys.executable, "-c", only, *command], env))
    assert (tmp_path / "eval" / "pretrained_kolmogorov" / "assimilate.png").exists()
