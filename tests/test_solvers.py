"""Few-step and adaptive solvers: reference values, orders of convergence, what holds for all."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from test_sampling import (
    assert_distribution,
    draw,
    exact_score,
    sampling_config,
)

from golden import assert_golden, cases, load, nhwc, parse, relative_error, sde_of
from oracles import gaussian_flow, gaussian_score
from scorax.sampling import SAMPLERS, get_sampling_fn
from scorax.sde_lib import SDES, VESDE, VPSDE, iddpm_sigmas
from scorax.solvers import SOLVERS, TIME_GRIDS
from scorax.solvers.adaptive import adaptive_step
from scorax.solvers.heun import get_heun_sampler
from scorax.solvers.tableaus import adams_tableau
from scorax.solvers.time_grids import in_double, levels_of, times_of
from scorax.utils.options import options_of
from simulation import simulate
from slow import crossed

FEW_STEP = [n for n, row in SOLVERS.items() if {"steps", "denoise"} <= options_of(row).keys()]
EDM = load("edm")


# Reference values


@pytest.fixture
def noise_in_order(monkeypatch):
    """Makes `jax.random.normal` return given NCHW arrays in their order, also inside a loop."""

    def use(noises):
        queue = [nhwc(z) for z in noises]

        def normal(key, shape=(), dtype=jnp.float32):
            result = jax.ShapeDtypeStruct(shape, dtype)
            return io_callback(lambda: queue.pop(0).astype(dtype), result, ordered=True)

        monkeypatch.setattr(jax.random, "normal", normal)
        return queue

    return use


def edm_cases(kind):
    return [pytest.param(c, id=c["out"]) for c in cases("edm") if c["kind"] == kind]


@pytest.mark.parametrize("case", edm_cases("grid"))
def test_golden_grid(case):
    with jax.enable_x64(True):
        sde, eps = ve_between(case["sigma_min"], case["sigma_max"])
        times = TIME_GRIDS["edm"](sde, case["num_steps"] - 1, sde.T, eps, case["rho"])
    np.testing.assert_allclose(np.append(levels_of(sde, times), 0), EDM[case["out"]], rtol=1e-9)


def ve_between(lowest, highest):
    """A VE SDE that ends with sigma = highest, and the time of sigma = lowest."""
    sde = VESDE(lowest / 2, highest)
    return sde, float(times_of(sde, lowest))


def toy_score(sde, times):
    """The exact score of the toy data of `edm.npz`, which notes the times it is asked for."""
    exact = gaussian_score(sde, *(EDM[f"in/toy_{k}"].transpose(1, 2, 0) for k in ("mean", "var")))

    def score_fn(x, t):
        jax.debug.callback(times.append, t[0], ordered=True)
        return exact(x, t)

    return score_fn


def check_edm_run(case, sde, grid, eps, noise_in_order, **options):
    """Runs the sampler in double precision, on the stored noise, and compares."""
    with jax.enable_x64(True):
        latents = jnp.asarray(nhwc(EDM[case["latents"]]), jnp.float64)
        sampler = get_heun_sampler(
            sde, case["num_steps"], grid, s_churn=float(case["S_churn"]), eps=eps, **options
        )
        # One draw on every arrival, of which the published code makes those at whole steps.
        noises = np.repeat(EDM[case["noises"]], options.get("order", 2), axis=0)
        left = noise_in_order(noises[: case["network_evaluations"] + 1])
        times, (_, sigma) = [], in_double(sde.marginal_coeffs, np.array(sde.T))
        run = jax.jit(lambda x: sampler(jax.random.key(0), toy_score(sde, times), x.shape, x))
        x, nfe = run(sigma * latents)
        assert nfe == len(times) == case["network_evaluations"]
    assert not left or not case["S_churn"]
    # The published levels of iDDPM come from cosines in float32, the rest from double precision.
    single = case.get("discretization") == "iddpm"
    levels = levels_of(sde, np.array(times))
    np.testing.assert_allclose(levels, EDM[case["sigmas_seen"]], rtol=1e-3 if single else 1e-7)
    assert relative_error(x, nhwc(EDM[case["out"]])) < (1e-4 if single else 1e-6)


@pytest.mark.parametrize("case", edm_cases("edm_sampler"))
def test_golden_edm_sampler(case, noise_in_order):
    sde, eps = ve_between(case["sigma_min"], case["sigma_max"])
    s_max = float("inf") if case["S_max"] is None else case["S_max"]
    options = {"s_min": case["S_min"], "s_max": s_max, "s_noise": case["S_noise"]}
    check_edm_run(case, sde, "edm", eps, noise_in_order, rho=case["rho"], **options)


def ablation_setting(case):
    """SDE, grid and eps for the default noise range of a discretisation (table 1)."""
    if case["discretization"] == "vp":
        return VPSDE(0.1, 20.0), "uniform", 1e-3
    if case["discretization"] == "ve":
        sde, eps = ve_between(0.02, 100.0)
        return sde, "log_snr", eps
    if case["discretization"] == "iddpm":
        u = iddpm_sigmas()
        u = u[(u >= 0.002) & (u <= 81)]
        sde, eps = ve_between(u[-1], u[0])
        return sde, "iddpm", eps
    sde, eps = ve_between(0.002, 80.0)
    return sde, "edm", eps


@pytest.mark.parametrize("case", edm_cases("ablation_sampler"))
def test_golden_ablation_sampler(case, noise_in_order):
    sde, grid, eps = ablation_setting(case)
    options = {
        "order": {"euler": 1, "heun": 2}[case["solver"]],
        "alpha": float(case["alpha"]),
        "schedule": {"vp": "sde", "ve": "sqrt", "linear": "linear"}[case["schedule"]],
        "scaling": case["scaling"],
    }
    check_edm_run(case, sde, grid, eps, noise_in_order, **options)


def adaptive_setting(case):
    z = load("adaptive_sde")
    sde = sde_of(case["sde"], {"N": 1000, **parse(z, "config")})
    mean, var = (z[f"in/toy_{k}"].transpose(1, 2, 0) for k in ("mean", "var"))
    return z, sde, gaussian_score(sde, mean, var)


ADAPTIVE_CASES = pytest.mark.parametrize("case", cases("adaptive_sde"), ids=lambda c: c["key"])


@ADAPTIVE_CASES
def test_golden_adaptive_step(case):
    z, sde, score_fn = adaptive_setting(case)
    x, x_prev, t, h, noise = (
        jnp.asarray(nhwc(z[f"in/{k}"])) for k in ("x", "x_prev", "t", "h", "z")
    )
    options = {k: case[k] for k in ("eps", "abs_tol", "rel_tol", "safety", "exponent")}
    step = jax.jit(functools.partial(adaptive_step, sde.reverse(score_fn), **options))(
        x, x_prev, t, h, noise
    )
    np.testing.assert_array_equal(step.accepted, z[case["single"] + "/accepted"])
    for key in ("x", "x_prev", "t", "h", "error"):
        assert_golden(getattr(step, key), z, f"{case['single']}/{key}")


@ADAPTIVE_CASES
def test_golden_adaptive_run(case, noise_in_order, monkeypatch):
    """Also the decisions, which would part for good where a single one differed."""
    z, sde, score_fn = adaptive_setting(case)
    attempts = []

    def noted(reverse, x, x_prev, t, h, noise, **options):
        step = adaptive_step(reverse, x, x_prev, t, h, noise, **options)
        now = {"t": t, "h": h, "error": step.error, "accepted": step.accepted, "x": step.x}
        jax.debug.callback(attempts.append, now, ordered=True)
        return step

    monkeypatch.setattr("scorax.solvers.adaptive.adaptive_step", noted)
    sampler = SOLVERS["adaptive_sde"](
        sde, case["abs_tol"], case["rel_tol"], h_init=case["h_init"], eps=case["eps"]
    )
    left = noise_in_order(z[case["noises"]])
    x, nfe = jax.jit(lambda: sampler(jax.random.key(0), score_fn, left[0].shape))()
    assert nfe == case["score_evaluations"]
    assert not left
    np.testing.assert_array_equal(stacked(attempts, "accepted"), z[case["key"] + "/accepted"])
    for key in ("t", "h", "error"):
        assert_golden(stacked(attempts, key), z, f"{case['key']}/{key}")
    assert_golden(attempts[-1]["x"], z, case["key"] + "/x_before_denoise")
    assert_golden(x, z, case["key"] + "/x")


def stacked(attempts, key):
    return np.stack([a[key] for a in attempts])


def test_weights_are_the_published_ones():
    """DPM-Solver++(2M) and its SDE form (Lu et al. 2022)."""
    sde = VPSDE()
    times = np.array([0.8, 0.5, 0.3])
    mu, sigma = in_double(sde.marginal_coeffs, times)
    lam = np.log(mu / sigma)
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    for eta, move, total in (
        (0.0, sigma[2] / sigma[1], -mu[2] * np.expm1(-h)),
        (1.0, sigma[2] / sigma[1] * np.exp(-h), -mu[2] * np.expm1(-2 * h)),
    ):
        tableau = adams_tableau(sde, times, order=2, midpoint=True, eta=eta, correct=False)
        expected = [move, 0, total * (1 + 1 / (2 * r)), -total / (2 * r)]
        np.testing.assert_allclose(tableau.weights[1, 0], expected, rtol=1e-12)
        noise = eta * sigma[2] * np.sqrt(-np.expm1(-2 * h))
        np.testing.assert_allclose(tableau.noise, [0, noise and tableau.noise[1], noise])


# Convergence

# solver -> options, order. A correction raises the order by one (Zhao et al. 2023).
ORDERS = {
    "ddim": ({}, 1),
    "heun": ({}, 2),
    "dpmpp_2m": ({}, 2),
    "dpmpp_3m": ({}, 3),
    "unipc": ({}, 3),
    "unipc-3": ({"order": 3}, 4),
}
DETERMINISTIC = [name for name in FEW_STEP if not name.endswith("sde")]


def flow_error(sde, var, sampler, eps):
    """Relative error of the probability flow from T to eps for data N(0, var)."""
    score_fn = gaussian_score(sde, 0.0, var)
    x_init = jnp.full((1, 1), sde.prior_std)
    x, _ = jax.jit(lambda x: sampler(jax.random.key(0), score_fn, (1, 1), x_init=x))(x_init)
    return float(x[0, 0]) / float(gaussian_flow(sde, 0.0, var, sde.prior_std, sde.T, eps)) - 1


@pytest.mark.parametrize("solver, name", crossed(sorted({*DETERMINISTIC, *ORDERS}), SDES))
def test_order_of_convergence(solver, name):
    options, order = ORDERS[solver]
    solver = solver.removesuffix("-3")
    sde, eps, errors = SDES[name](), 1e-3, []
    with jax.enable_x64(True):
        for steps in (80, 160):
            # On the log-SNR grid the leading error of Gaussian data happens to cancel.
            sampler = SOLVERS[solver](sde, steps, "edm", denoise=False, eps=eps, **options)
            errors.append(flow_error(sde, 0.04, sampler, eps))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)
    assert abs(errors[1]) < {1: 0.04, 2: 0.004}.get(order, 4e-4)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_many_steps_in_float32_lose_nothing_to_rounding(solver):
    """Where the coefficients of small steps cancelled, 1,000 of them would add it all up."""
    sde, eps, steps = SDES["subvpsde"](), 1e-3, 1000
    single = flow_error(sde, 0.04, SOLVERS[solver](sde, steps, denoise=False, eps=eps), eps)
    with jax.enable_x64(True):
        double = flow_error(sde, 0.04, SOLVERS[solver](sde, steps, denoise=False, eps=eps), eps)
    assert single == pytest.approx(double, abs=5e-5)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_golden_probability_flow(solver):
    """The exact end of the flow from sigma 60, for all the solvers of it."""
    sde = VESDE(1e-4, 60.0)
    latents = jnp.asarray(nhwc(EDM["in/latents"]))
    steps, limit = {1: (400, 0.05)}.get(ORDERS[solver][1], (80, 5e-3))
    sampler = SOLVERS[solver](sde, steps, eps=float(times_of(sde, 2e-3)))
    x, _ = jax.jit(lambda x: sampler(jax.random.key(0), toy_score(sde, []), x.shape, x_init=x))(
        60 * latents
    )
    assert relative_error(x, nhwc(EDM["out/heun/exact_f64"])) < limit


# Distributions


def distribution_cases():
    for i, solver in enumerate(SOLVERS):
        for j, name in enumerate(SDES):
            fast = i % len(SDES) == j or solver == "adaptive_sde" and name == "vesde"
            marks = [] if fast else [pytest.mark.slow]
            yield pytest.param(solver, name, marks=marks, id=f"{solver}-{name}")


# The noisy ones, with settings at which their discretisation is a few per cent at most.
NOISY = {
    "dpmpp_2m_sde": {"steps": 100},
    "heun": {"steps": 120, "s_churn": 40.0, "s_min": 0.05, "s_max": 30.0},
    "adaptive_sde": {"rel_tol": 0.02},
}


def draw_many(sampler, sde, score_fn, n, d, x_init=None):
    """n draws of d numbers, as samples of 1,000 numbers each.

    The adaptive solver is right for samples of many dimensions only.
    """
    each = 1000 // d

    def rows_score(x, t):
        return score_fn(x.reshape(-1, d), jnp.repeat(t, each)).reshape(x.shape)

    def run(rng):
        start = {} if x_init is None else {"x_init": jnp.full((n // each, each, d), x_init)}
        return sampler(rng, rows_score, (n // each, each, d), **start)

    x, nfe = simulate(run)
    return np.asarray(x, np.float64).reshape(-1, d), int(nfe)


@pytest.mark.parametrize("solver, name", list(distribution_cases()))
def test_every_solver_returns_the_data(solver, name):
    sde = SDES[name]()
    options = NOISY.get(solver, {"steps": 200 if solver == "ddim" else 40})
    x, _ = draw_many(SOLVERS[solver](sde, **options), sde, exact_score(sde), 4000, 4)
    # The prior has not the mean of p_T, and the flow keeps that in units of standard deviations.
    mu, _ = in_double(sde.marginal_coeffs, np.array([sde.T]))
    assert_distribution(x, bias=0.03, shift=float(mu[0]) / sde.prior_std)


def test_churn_and_the_reverse_sde_forget_the_start():
    """From one state the flow leads to one sample, the SDE to all of the data."""
    sde, spread = VPSDE(), {}
    for solver, options in {"ddim": {"steps": 20}, **NOISY}.items():
        sampler, score_fn = SOLVERS[solver](sde, **options), gaussian_score(sde, 0.0, 0.5)
        x, _ = draw_many(sampler, sde, score_fn, 4000, 1, x_init=2.0)
        spread[solver] = np.std(x)
    assert spread["ddim"] < 1e-6
    for solver in ("dpmpp_2m_sde", "adaptive_sde"):
        assert spread[solver] == pytest.approx(np.sqrt(0.5), rel=0.05)
    assert 0.3 < spread["heun"] < 0.75  # churn replaces a part of the start only


def test_a_tighter_tolerance_is_slower_and_closer():
    sde, var, results = VPSDE(), np.array([1.0, 0.02]), []
    for rel_tol, abs_tol in ((1.0, 0.5), (0.02, 0.004)):
        sampler = SOLVERS["adaptive_sde"](sde, abs_tol=abs_tol, rel_tol=rel_tol)
        x, nfe = draw_many(sampler, sde, gaussian_score(sde, 0.0, var), 10_000, 2)
        results.append((nfe, abs(np.var(x, axis=0) / var - 1).max()))
    (quick, off), (slow, close) = results
    assert 4 * quick < slow
    assert close < 0.05 < off


# What holds for every solver and SDE

BOTH = pytest.mark.parametrize("name", list(SDES))
SOLVER = pytest.mark.parametrize("solver", list(SOLVERS))
QUICK = {"adaptive_sde": {"rel_tol": 0.5, "abs_tol": 0.1}}


def build(solver, sde, **options):
    steps = {"steps": 5} if "steps" in options_of(SOLVERS[solver]) else {}
    return SOLVERS[solver](sde, **QUICK.get(solver, steps), **options)


@pytest.mark.parametrize("solver, name", crossed(SOLVERS, SDES))
def test_contract(solver, name):
    """Evaluations, times, projection, observer and start, all in one run."""
    sde, shape, t_start, eps = SDES[name](), (2, 3, 2), 0.6, 0.01
    evaluated, projected, seen = [], [], []

    def score_fn(x, t):
        assert t.shape == shape[:1]
        jax.debug.callback(lambda t: evaluated.append(np.asarray(t)), t, ordered=True)
        return gaussian_score(sde)(x.reshape(2, -1), t).reshape(shape)

    def projection(rng, x, x_mean, t):
        jax.debug.callback(lambda t: projected.append(np.asarray(t)), t, ordered=True)
        known = jnp.full(shape[:2], 7.0)
        return x.at[..., 0].set(known + jax.random.normal(rng, known.shape)), x_mean.at[..., 0].set(
            known
        )

    sampler = build(
        solver, sde, t_start=t_start, eps=eps, projection=projection,
        observer=lambda i, n, x: seen.append((i, n, x)),
    )  # fmt: skip
    run = jax.jit(lambda rng, x: sampler(rng, score_fn, shape, x_init=x))
    x, nfe = run(jax.random.key(0), jax.random.normal(jax.random.key(1), shape))
    jax.effects_barrier()
    assert x.shape == shape and x.dtype == jnp.float32
    assert nfe == len(evaluated)
    np.testing.assert_allclose(evaluated[0], t_start, rtol=1e-6)
    times = np.concatenate(evaluated)
    assert times.max() <= np.float32(t_start) and times.min() >= np.float32(eps) - 1e-6
    # Known values come out as they are, imposed from the start to the end.
    np.testing.assert_array_equal(x[..., 0], 7.0)
    np.testing.assert_allclose(projected[0], t_start, rtol=1e-6)
    np.testing.assert_allclose(projected[-1], eps, rtol=1e-4)
    assert (np.diff(np.stack(projected), axis=0) < 1e-6).all()
    steps, totals, states = zip(*seen, strict=True)
    assert steps[-1] == totals[-1] and list(steps) == sorted(steps)
    np.testing.assert_array_equal(states[-1], x)


@pytest.mark.parametrize("solver", FEW_STEP)
def test_the_last_step_denoises(solver):
    """With one step more to x_0: Tweedie's mean of where one would have stopped, same key."""
    sde = SDES["subvpsde"]()
    score_fn = gaussian_score(sde, 0.3, 0.2)

    def run(steps, denoise):
        sampler = SOLVERS[solver](sde, steps, denoise=denoise)
        return jax.jit(lambda rng: sampler(rng, score_fn, (6, 4)))(jax.random.key(0))

    (at_eps, nfe), (x, nfe_to_data) = run(5, False), run(6, True)
    t = jnp.full((6,), sde.t_min)
    mu, sigma = (c[:, None] for c in sde.marginal_coeffs(t))
    np.testing.assert_allclose(x, (at_eps + sigma**2 * score_fn(at_eps, t)) / mu, rtol=1e-4)
    assert nfe_to_data == nfe + 1


@pytest.mark.parametrize("solver", FEW_STEP)
def test_one_step_is_the_posterior_mean(solver):
    sde = VESDE()
    sampler = SOLVERS[solver](sde, 1)
    x_init = jnp.asarray([[3.0], [-5.0]])
    run = jax.jit(lambda x: sampler(jax.random.key(0), gaussian_score(sde, 1.0, 4.0), (2, 1), x))
    x, nfe = run(x_init)
    weight = 4 / (4 + 50**2)
    np.testing.assert_allclose(x, weight * x_init + (1 - weight), rtol=1e-3)
    assert nfe == 1


@pytest.mark.parametrize("solver", FEW_STEP)
def test_the_program_does_not_grow_with_the_steps(solver):
    def equations(steps):
        sde = VPSDE()
        sampler = SOLVERS[solver](sde, steps)
        run = jax.make_jaxpr(lambda rng: sampler(rng, gaussian_score(sde), (2, 4))[0])
        return str(run(jax.random.key(0))).count(" = ")

    assert equations(6) == equations(30)


def test_coefficients_are_double_also_where_a_caller_is_traced():
    outside = SOLVERS["unipc"](VPSDE(), 6)

    def run(sampler, rng):
        return sampler(rng, gaussian_score(VPSDE()), (2, 4))[0]

    inside = jax.jit(lambda rng: run(SOLVERS["unipc"](VPSDE(), 6), rng))(jax.random.key(0))
    np.testing.assert_array_equal(
        inside, jax.jit(functools.partial(run, outside))(jax.random.key(0))
    )


@pytest.mark.parametrize("grid", list(TIME_GRIDS))
@BOTH
def test_grids_fall_from_start_to_end(grid, name):
    sde = SDES[name]()
    for n, t_start, eps in ((0, 1.0, 0.01), (1, 0.7, 0.01), (20, 1.0, sde.t_min)):
        times = TIME_GRIDS[grid](sde, n, t_start, eps, 7.0)
        assert times.shape == (n + 1,) and times[0] == t_start
        assert n == 0 or times[-1] == eps
        assert (np.diff(times) < 0).all()


def test_grids_are_equal_steps_of_what_they_say():
    sde = SDES["cosine"]()
    grids = {grid: TIME_GRIDS[grid](sde, 10, 0.9, 0.01, 3.0) for grid in TIME_GRIDS}
    levels = levels_of(sde, grids["log_snr"])
    for values in (grids["uniform"], np.log(levels), levels_of(sde, grids["edm"]) ** (1 / 3)):
        np.testing.assert_allclose(np.diff(values), np.diff(values)[0], rtol=1e-9)


# What cannot work


def test_a_score_that_is_not_finite_ends_the_adaptive_solver():
    """It would otherwise try for ever. What did not arrive is not passed off as a sample."""
    sde, seen = VPSDE(), []

    def score_fn(x, t):
        score = gaussian_score(sde)(x, t)
        return jnp.where(t[:, None] < 0.5, jnp.nan, score)

    sampler = SOLVERS["adaptive_sde"](sde, observer=lambda *step: seen.append(step))
    x, nfe = jax.jit(lambda rng: sampler(rng, score_fn, (3, 2)))(jax.random.key(0))
    jax.effects_barrier()
    assert nfe < 200 and np.isnan(x).all()
    i, n, last = seen[-1]
    assert n == 50 and 5 < i <= 25 and np.isnan(last).all()  # in fiftieths, before half of the way


def test_the_adaptive_solver_gives_up():
    sampler = SOLVERS["adaptive_sde"](VPSDE(), max_steps=7)
    x, nfe = jax.jit(lambda rng: sampler(rng, gaussian_score(VPSDE()), (3, 2)))(jax.random.key(0))
    assert np.isnan(x).all() and nfe == 15


WRONG = [
    ("ddim", {"steps": 0}, "sampling.steps=0"),
    ("heun", {"steps": -3}, "sampling.steps=-3"),
    ("ddim", {"grid": "edn"}, "edm"),
    ("ddim", {"rho": 0.0}, "sampling.rho=0.0"),
    ("ddim", {"eps": 0.0}, "sampling.eps=0.0"),
    ("ddim", {"t_start": 1e-4}, "t_start=0.0001"),
    ("dpmpp_3m", {"t_start": 1.5}, "t_start=1.5"),
    ("adaptive_sde", {"t_start": 0.0}, "t_start=0.0"),
    ("unipc", {"order": 4}, "sampling.order"),
    ("unipc", {"order": 0}, "sampling.order"),
    ("unipc", {"eta": 1.0}, "eta=1.0"),
    ("ddim", {"eta": -1.0}, "eta=-1.0"),
    ("heun", {"order": 3}, "order=3"),
    ("heun", {"alpha": 0.0}, "alpha=0.0"),
    ("heun", {"schedule": "cubic"}, "linear, sqrt, sde"),
    ("heun", {"scaling": "ve"}, "none, vp"),
    ("heun", {"s_churn": -1.0}, "sampling.s_churn=-1.0"),
    ("heun", {"s_noise": -1.0}, "s_noise=-1.0"),
    ("heun", {"s_min": 2.0, "s_max": 1.0}, "s_min=2.0"),
    ("adaptive_sde", {"abs_tol": 0.0}, "sampling.abs_tol=0.0"),
    ("adaptive_sde", {"rel_tol": -0.1}, "rel_tol=-0.1"),
    ("adaptive_sde", {"h_init": 0.0}, "h_init=0.0"),
    ("adaptive_sde", {"max_steps": 0}, "max_steps=0"),
    ("ddim", {"grid": "iddpm", "steps": 2000}, "fewer steps"),
]


@pytest.mark.parametrize("solver, options, message", WRONG)
def test_what_cannot_work_is_refused_before_anything_runs(solver, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SOLVERS[solver](VPSDE(), **options)


@SOLVER
def test_a_start_of_ones_own_needs_a_state(solver):
    sampler = build(solver, VPSDE(), t_start=0.5)
    with pytest.raises(ValueError, match="t_start=0.5 needs x_init"):
        sampler(jax.random.key(0), exact_score(VPSDE()), (2, 4))
    with pytest.raises(ValueError, match="must have the samples'"):
        sampler(jax.random.key(0), exact_score(VPSDE()), (2, 4), x_init=jnp.zeros((2, 3)))


# Configs

# method -> keys of config.sampling, and the same by hand
CONFIGURED = {
    "ddim": ({"steps": 5, "grid": "uniform"}, {"steps": 5, "grid": "uniform"}),
    "heun": (
        {"steps": 5, "rho": 5.0, "s_churn": 2.0, "s_min": 0.1, "s_max": 9.0, "s_noise": 1.1},
        {"steps": 5, "rho": 5.0, "s_churn": 2.0, "s_min": 0.1, "s_max": 9.0, "s_noise": 1.1},
    ),
    "dpmpp_2m": ({"noise_removal": False}, {"denoise": False}),
    "dpmpp_3m": ({"eps": 0.01, "grid": "log_snr"}, {"eps": 0.01, "grid": "log_snr"}),
    "dpmpp_2m_sde": ({"steps": 7}, {"steps": 7}),
    "unipc": ({"order": 3}, {"order": 3}),
    "adaptive_sde": ({"abs_tol": 0.1, "rel_tol": 0.5}, {"abs_tol": 0.1, "rel_tol": 0.5}),
}


@SOLVER
def test_config_selects_what_it_names(solver):
    keys, options = CONFIGURED[solver]
    sde = VPSDE()
    configured = get_sampling_fn(sampling_config(method=solver.upper(), **keys), sde)
    x, by_hand = (
        draw(sampler, sde, 4) for sampler in (configured, SOLVERS[solver](sde, **options))
    )
    np.testing.assert_array_equal(x, by_hand)


def test_every_solver_is_a_method():
    assert set(SAMPLERS) == {"pc", "ode", *SOLVERS}
    assert set(CONFIGURED) == set(SOLVERS)
