"""The probability-flow ODE: reference values, the closed form for Gaussian data, honest counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import cases, load, nhwc, parse, relative_error, sde_of
from oracles import gaussian_flow, gaussian_score
from scorax.sde_lib import SDES, VESDE, VPSDE
from scorax.solvers.probability_flow import (
    ERROR_CONTROLS,
    ODE_SOLVERS,
    Integrator,
    get_decoder,
    get_encoder,
    get_ode_sampler,
    interpolate,
)
from scorax.utils.arrays import batch_mul, expand_like
from slow import but_slow, crossed

# Reference values


@pytest.mark.parametrize(
    "case",
    but_slow(
        [c for c in cases("ode_likelihood") if c["kind"] == "ode_sample"],
        lambda c: not c["denoise"],
        ids=lambda c: c["key"],
    ),
)
def test_golden_samples(case):
    """At the same tolerance; both are compared with the closed form where there is one."""
    z, key = load("ode_likelihood"), case["key"]
    settings = parse(z, "config")
    sde = sde_of(case["sde"], settings)
    mean, var = (jnp.asarray(z[f"in/toy_{k}"].transpose(1, 2, 0)) for k in ("mean", "var"))
    sampler = get_ode_sampler(
        sde,
        solver="dopri5",
        rtol=settings["rtol"],
        atol=settings["atol"],
        denoise=case["denoise"],
        eps=case["eps"],
    )
    start = jnp.asarray(nhwc(z[case["z"]]))
    score_fn = gaussian_score(sde, mean, var)
    x, nfe = jax.jit(lambda x: sampler(jax.random.key(0), score_fn, x.shape, x))(start)
    assert relative_error(x, nhwc(z[f"{key}/x"])) < 1e-4
    if not case["denoise"]:
        assert relative_error(x, nhwc(z[f"{key}/x_exact_f64"])) < 1e-4
    # The same method; it counts the last evaluation, which scipy does not make.
    assert abs(int(nfe) - int(z[f"{key}/nfe"])) <= 6


# Closed forms

MEAN, VAR = np.array([0.3, -0.5, 0.0]), np.array([0.04, 0.3, 1.5])
START = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def settings():
    for name in SDES:
        yield name, "tsit5", "batch"
    for solver in ODE_SOLVERS:
        for control in ERROR_CONTROLS:
            if (solver, control) != ("tsit5", "batch"):
                yield "vpsde", solver, control


QUICK = (("vesde", "tsit5", "batch"), ("vpsde", "dopri5", "sample"))


@pytest.mark.parametrize(
    "name, solver, control",
    [pytest.param(*s, marks=[] if s in QUICK else [pytest.mark.slow]) for s in settings()],
)
def test_decoding_is_the_exact_flow_and_encoding_its_inverse(name, solver, control):
    sde = SDES[name]()
    # The tolerance of a step; errors add up, and grow where the flow spreads.
    arguments = dict(solver=solver, error_control=control, eps=1e-4, rtol=1e-6, atol=1e-6)
    score_fn = gaussian_score(sde, MEAN, VAR)

    @jax.jit
    def there_and_back(z):
        x, _ = get_decoder(sde, **arguments)(score_fn, z)
        return x, get_encoder(sde, **arguments)(score_fn, x)[0]

    z = START * sde.prior_std
    x, again = there_and_back(z)
    np.testing.assert_allclose(x, gaussian_flow(sde, MEAN, VAR, z, sde.T, 1e-4), atol=1e-4)
    # Errors at t = eps grow with the spread on the way back.
    ends = gaussian_flow(sde, MEAN, VAR, np.array([[0.0], [1.0]]), 1e-4, sde.T)
    growth = np.diff(ends, axis=0)
    assert (np.abs(again - z) < 2e-4 * np.maximum(growth, 1)).all()


def test_sampling_is_decoding_a_draw_from_the_prior():
    sde, key, shape = VPSDE(), jax.random.key(3), (5, 2, 3)
    score_fn = gaussian_score(sde, 0.2, 0.5)
    x, nfe = jax.jit(lambda: get_ode_sampler(sde)(key, score_fn, shape))()
    z = sde.prior_sampling(key, shape)
    np.testing.assert_allclose(x, gaussian_flow(sde, 0.2, 0.5, z, 1.0, sde.t_min), atol=1e-4)
    assert nfe.dtype == jnp.int32 and nfe.shape == ()


def test_a_start_on_the_way_is_carried_from_there():
    sde = VESDE(sigma_max=20.0)
    sampler = get_ode_sampler(sde, t_start=0.6, eps=0.1)
    run = jax.jit(lambda x: sampler(jax.random.key(0), gaussian_score(sde, 0.2, 0.5), x.shape, x))
    exact = gaussian_flow(sde, 0.2, 0.5, START, 0.6, 0.1)
    np.testing.assert_allclose(run(START)[0], exact, atol=1e-4)


def test_tolerance_sets_the_error():
    """Two orders of magnitude less tolerance: at least one less error, and more evaluations."""
    sde = VPSDE()
    score_fn = gaussian_score(sde, MEAN, VAR)
    exact, errors, counts = gaussian_flow(sde, MEAN, VAR, START, 1.0, sde.t_min), [], []
    for tolerance in (1e-3, 1e-5):
        decode = jax.jit(
            functools.partial(get_decoder(sde, rtol=tolerance, atol=tolerance), score_fn)
        )
        x, nfe = decode(START)
        errors.append(np.abs(x - exact).max())
        counts.append(int(nfe))
    assert errors[1] < errors[0] / 10 and counts[0] < counts[1]


# Error control


def test_a_sample_with_its_own_steps_does_not_depend_on_the_others():
    """Also where the score closes over what belongs to each sample, integers included."""
    sde = VPSDE()
    spreads = jnp.asarray([1.0, 0.1, 1e-3])

    @functools.partial(jax.jit, static_argnums=0)
    def run(control, x, label):
        var = expand_like(spreads[label] ** 2, x)
        decode = get_decoder(sde, error_control=control, rtol=1e-3, atol=1e-3)
        return decode(gaussian_score(sde, 0.2, var), x)[0]

    labels = np.array([0, 1, 2, 2])
    x = run("sample", START, labels)
    for i, label in enumerate(labels[:3]):
        company = np.where(np.arange(4) == i, label, 0)
        alone = run("sample", START, company)[i]
        np.testing.assert_allclose(alone, x[i], rtol=1e-6, atol=1e-7)
    moved = run("batch", START, labels)[0] - run("batch", START, 0 * labels)[0]
    assert np.abs(moved).max() > 1e-5


# Counting


@pytest.mark.parametrize("solver, control", crossed(ODE_SOLVERS, ERROR_CONTROLS))
def test_every_evaluation_is_counted(solver, control):
    """2 to choose the first step, 1 for each attempt at it, 6 for every step."""
    calls = []

    def field(t, y, sharpness):
        jax.debug.callback(lambda: calls.append(1))
        return batch_mul(jnp.tanh((t - 0.02) * sharpness), jnp.ones_like(y)) - y

    integrate = Integrator(solver=solver, error_control=control)

    @jax.jit
    def run(sharpness):
        return integrate(lambda t, y: field(t, y, sharpness), jnp.ones((3, 2)), 0.0, 1.0)[1]

    # At a sudden turn the first step, which is chosen at the start, is rejected.
    for sharpness, rejected in (jnp.ones(3), False), (jnp.asarray([1.0, 300.0, 1000.0]), True):
        calls.clear()
        nfe = int(run(sharpness))
        jax.effects_barrier()
        assert nfe == len(calls)
        assert ((nfe - 3) % 6 != 0) == rejected


# Failures


def score_with_an_edge(below):
    """Of a score that for the third sample has another value below t = 0.4."""
    good = gaussian_score(VPSDE(), 0.2, 0.5)

    def score_fn(x, t):
        other = (t < 0.4) & (jnp.arange(4) == 2)
        return jnp.where(expand_like(other, x), below, good(x, t))

    return score_fn


@pytest.mark.parametrize(
    "below, change, message",
    [
        (jnp.nan, {}, r"stopped at t=0\.4\d* after \d+ steps .*score is not finite"),
        (jnp.nan, {"error_control": "sample"}, r"stopped at t=0\.4\d* .*score is not finite"),
        (1e30, {}, r"stopped at t=0\.4\d* .*no step is short enough"),
        (
            0.0,
            {"max_steps": 3},
            r"from t=1 to t=0.001 stopped at t=0\.\d+ after 3 steps .*raise rtol",
        ),
    ],
    ids=["nan", "nan-sample", "jump", "steps"],
)
def test_a_failure_says_how_far_it_came_and_why(below, change, message):
    decode = get_decoder(VPSDE(), **change)
    run = jax.jit(functools.partial(decode, score_with_an_edge(below)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(run(START))


def test_a_score_that_is_never_finite_ends_at_once():
    sde = VPSDE()
    decode = jax.jit(functools.partial(get_decoder(sde), lambda x, t: x * jnp.nan))
    with pytest.raises(jax.errors.JaxRuntimeError, match="stopped at t=1 .*score is not finite"):
        jax.block_until_ready(decode(START))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"solver": "rk45"}, "ode_solver.*'rk45'.*tsit5, dopri5"),
        ({"error_control": "pixel"}, "error_control.*'pixel'.*batch, sample"),
        ({"rtol": 0.0}, "rtol=0.0"),
        ({"atol": -1e-5}, "atol=-1e-05"),
        ({"rtol": math.nan}, "rtol=nan"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"eps": 0.0}, "sampling.eps=0.0"),
        ({"eps": 1.0}, "sampling.eps=1.0"),
        ({"t_start": 1.5}, "t_start=1.5"),
        ({"t_start": 1e-4}, "t_start=0.0001"),
    ],
    ids=str,
)
@pytest.mark.parametrize("builder", [get_ode_sampler, get_encoder, get_decoder])
def test_settings_that_cannot_work_are_refused(builder, change, message):
    with pytest.raises(ValueError, match=message):
        builder(VPSDE(), **change)


def test_a_projection_is_refused():
    with pytest.raises(ValueError, match="sampling.method='ode'.*'pc'"):
        get_ode_sampler(VPSDE(), projection=lambda rng, x, x_mean, t: (x, x_mean))


def test_the_observer_sees_the_samples():
    seen = []
    sampler = get_ode_sampler(VPSDE(), observer=lambda *args: seen.append(args))
    score_fn = gaussian_score(VPSDE(), 0.2, 0.5)
    x, _ = jax.jit(lambda: sampler(jax.random.key(0), score_fn, (2, 3)))()
    jax.effects_barrier()
    [(done, total, samples)] = seen
    assert done == total == 1
    np.testing.assert_array_equal(samples, x)


# Interpolation


def test_interpolation_keeps_to_the_sphere():
    a, b = np.random.default_rng(1).standard_normal((2, 4, 5, 3)).astype(np.float32)
    a, b = a / np.linalg.norm(a), 2 * b / np.linalg.norm(b)
    weights = np.linspace(0, 1, 9, dtype=np.float32)
    z = np.asarray(interpolate(a, b, weights))
    assert z.shape == (9, 4, 5, 3)
    np.testing.assert_allclose(z[0], a, atol=1e-6)
    np.testing.assert_allclose(z[-1], b, atol=1e-6)
    z = z.reshape(9, -1)
    norms = np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(norms, 1 + weights, rtol=1e-5)
    # Equal angles from each to the next.
    cosines = (z[1:] * z[:-1]).sum(1) / (norms[1:] * norms[:-1])
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1 + 1e-6, -2.0])
def test_interpolation_of_parallel_latents_is_a_line(factor):
    a = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    z = interpolate(a, factor * a, np.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(z[1], (1 + factor) / 2 * a, rtol=1e-5)
