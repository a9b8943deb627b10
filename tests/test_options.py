"""How a row declares its options, and what is said of one that cannot be given a value."""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from scorax import conditioning, evaluators, sampling
from scorax.conditioning import denoising, guidance
from scorax.evaluators.problems import Restoration
from scorax.experiment import build
from scorax.likelihood import get_likelihood_fn
from scorax.metrics import feature_sets
from scorax.solvers import probability_flow
from scorax.utils.options import (
    Option,
    OptionsOf,
    check_parameters,
    configured,
    keys_of,
    options_of,
    value_of,
)

CONFIG = {"seed": 7, "eval": {"width": 1.5, "gain": 0.0, "name": "a"}}


def blur(x, width: Annotated[float, Option("eval.width")], sharp: bool = False):
    return width


@dataclasses.dataclass(frozen=True)
class Sensor:
    size: int
    gain: Annotated[float, Option("eval.gain", unset=0.0, power=2)] = 3.0
    label: Annotated[str, Option("eval.name", "seed", read=lambda name, seed: f"{name}{seed}")] = ""


def blurred(gain: Annotated[float, Option("seed")], **rest: Annotated[Any, OptionsOf(Sensor)]):
    return gain, rest


def keys(row):
    return {name: option.keys for name, option in options_of(row).items()}


def test_options_of_functions_dataclasses_and_partials():
    assert keys(blur) == {"width": ("eval.width",)}
    assert keys(Sensor) == {"gain": ("eval.gain",), "label": ("eval.name", "seed")}
    assert keys(functools.partial(blur, sharp=True)) == {"width": ("eval.width",)}
    assert keys(functools.partial(blur, width=2.0)) == {}  # bound, so no longer an option
    assert keys(len) == {}


def test_options_of_another_row_yield_to_a_parameter_of_that_name():
    assert keys(blurred) == {"gain": ("seed",), "label": ("eval.name", "seed")}
    assert keys(functools.partial(blurred, label="b")) == {"gain": ("seed",)}


def test_annotations_that_are_strings_count():
    def later(width: "Annotated[float, Option('eval.width')]") -> None: ...

    assert keys(later) == {"width": ("eval.width",)}


def test_configured_values():
    assert configured(blur, CONFIG) == {"width": 1.5}
    assert configured(Sensor, CONFIG) == {"label": "a7"}  # the gain is unset
    loud = {"seed": 7, "eval": CONFIG["eval"] | {"gain": 5.0}}
    assert configured(Sensor, loud) == {"gain": 5.0, "label": "a7"}
    assert configured(Sensor, loud, width=2.0) == {"gain": 20.0, "label": "a7"}  # 5 times 2^2
    assert keys_of({"blur": blur, "sensor": Sensor, "again": blur}) == (
        *("eval.width", "eval.gain", "eval.name", "seed"),
    )


@pytest.mark.parametrize("key", ["eval.depth", "evil.width", "depth"])
def test_a_key_that_no_config_has_is_named(key):
    with pytest.raises(ValueError, match=f"'{key}', which no config has; .* configs/base.py"):
        value_of(CONFIG, key)

    def deep(depth: Annotated[float, Option(key)] = 1.0) -> None: ...

    with pytest.raises(ValueError, match=f"'{key}', which no config has"):
        configured(deep, CONFIG)


def test_a_parameter_without_a_source_is_named():
    check_parameters(Sensor, given=["size"])
    check_parameters(blurred)
    check_parameters(functools.partial(Sensor, size=3))
    with pytest.raises(ValueError, match="'size' of Sensor has neither a default nor an option"):
        check_parameters(functools.partial(Sensor, gain=1.0))


# What a caller gives the rows of each table; everything else is in the config, or has a default.
STATE = ("sde", "observer", "projection", "t_start")
GIVEN = {
    "samplers": (sampling.SAMPLERS, STATE),
    "operators": (conditioning.OPERATORS, ()),
    "likelihoods": (conditioning.LIKELIHOODS, ("sde", "operator", "y", "std")),
    "denoisers": (denoising.DENOISERS, ("sde", "sigma", "data_range", "get_sampler")),
    "weights": (guidance.WEIGHTS, ()),
    "metrics": (feature_sets.METRICS, ("samples", "reference")),
    "likelihood": ({"bpd": get_likelihood_fn}, ("sde",)),
    "encoder": ({"encoder": probability_flow.get_encoder}, ("sde",)),
}


@pytest.mark.parametrize("table, given", GIVEN.values(), ids=GIVEN)
def test_every_row_can_be_built_from_a_config(table, given):
    config = runs.get_config()
    for row in table.values():
        check_parameters(row, given)
        assert configured(row, config).keys() <= options_of(row).keys()


# Through the tasks


def check(**fields):
    config = runs.get_config()
    config.eval.update({"tasks": ("restore",)} | fields)
    evaluators.check(build(config))


def test_an_operator_with_a_parameter_without_a_source_is_refused(monkeypatch):
    def get_sensor(gain: float, width: float = 1.0):
        return lambda x: gain * x

    monkeypatch.setitem(conditioning.OPERATORS, "sensor", get_sensor)
    message = "eval.operator='sensor': the parameter 'gain' of get_sensor has neither a default"
    with pytest.raises(ValueError, match=message) as error:
        check(operator="sensor")
    assert "\n" not in str(error.value)


def test_an_operator_with_an_option_that_no_config_has_is_refused(monkeypatch):
    def get_sensor(gain: Annotated[float, Option("eval.gain")] = 1.0):
        return lambda x: gain * x

    monkeypatch.setitem(conditioning.OPERATORS, "sensor", get_sensor)
    message = "eval.operator='sensor': a row has the option 'eval.gain', which no config has"
    with pytest.raises(ValueError, match=message) as error:
        check(operator="sensor")
    assert "\n" not in str(error.value)


def test_a_likelihood_with_a_parameter_without_a_source_is_refused(monkeypatch):
    @dataclasses.dataclass(frozen=True, eq=False)
    class Strange(conditioning.DPS):
        strength: float = dataclasses.field(kw_only=True)

    monkeypatch.setitem(conditioning.LIKELIHOODS, "strange", Strange)
    with pytest.raises(ValueError, match="'strength' of Strange has neither a default nor"):
        check(likelihood="strange")


def test_a_solver_with_a_parameter_without_a_source_is_refused(monkeypatch):
    def get_solver(process, order, observer=None, projection=None, t_start=None):
        return None

    monkeypatch.setitem(sampling.SAMPLERS, "mine", get_solver)
    config = runs.get_config(sampling={"method": "mine"})
    with pytest.raises(ValueError, match="'order' of get_solver has neither a default nor"):
        sampling.get_sampling_fn(config, None)
    assert sampling.get_sampling_fn(config, None, order=2) is None


def test_a_non_linear_operator_of_another_shape_is_measured_and_shown(monkeypatch):
    """Moduli of Fourier coefficients, as in phase retrieval: no derivative where they are 0."""

    def get_moduli():
        return lambda x: jnp.abs(jnp.fft.rfft2(x, axes=(1, 2)))

    monkeypatch.setitem(conditioning.OPERATORS, "moduli", get_moduli)
    check(operator="moduli")
    config = runs.get_config(eval={"operator": "moduli"})
    problem = Restoration(build(config))
    x = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 1)), jnp.float32)
    y = np.asarray(problem.measure(jax.random.key(0), x))
    assert y.shape == (2, 8, 5, 1) and (problem.misfits(y, np.asarray(x)) < 0.08).all()
    shown = problem.to_image(y)
    assert shown.shape == x.shape and np.isfinite(shown).all()
