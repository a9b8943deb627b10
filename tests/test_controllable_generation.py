"""Inpainting and colorization: published values, exactness, and data with a known posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, cases, load, nhwc, parse, sde_of
from oracles import correlated_score, toy_score
from scorax.conditioning.operators import COLOR_BASES, luma
from scorax.conditioning.posterior import MMPS
from scorax.controllable_generation import (
    colorization_projection,
    couple,
    decouple,
    get_pc_colorizer,
    get_pc_conditional_sampler,
    get_pc_inpainter,
    get_resampling_corrector,
    inpainting_projection,
)
from scorax.sampling import CORRECTORS, PREDICTORS, get_pc_sampler
from scorax.sde_lib import SDES, VPSDE
from scorax.solvers import SOLVERS
from simulation import simulate
from slow import crossed

# Reference values


def stored_inputs():
    """data, mask and the one channel of gray, NHWC."""
    z = load("controllable")
    data, mask, gray = (jnp.asarray(nhwc(z[f"in/{k}"])) for k in ("data", "mask", "gray"))
    return data, mask, gray[..., :1]


def cases_of(*tasks):
    return [case for case in cases("controllable") if case["task"] in tasks]


@pytest.mark.parametrize("case", cases_of("inpaint", "colorize"), ids=lambda c: c["key"])
def test_golden_update(case, stored_noise):
    z, key = load("controllable"), case["key"]
    sde = sde_of(case["sde"], parse(z, "config") | {"N": case["N"]})
    data, mask, gray = stored_inputs()
    projection = (
        inpainting_projection(sde, data, mask, published=True)
        if case["task"] == "inpaint"
        else colorization_projection(sde, gray, published=True)
    )
    if case["role"] == "predictor":
        update = PREDICTORS[case["name"]](sde, toy_score(sde))
    else:
        update = CORRECTORS[case["name"]](sde, toy_score(sde), case["snr"], 1)
    x = jnp.asarray(nhwc(z[f"{key}/x"]))
    t = jnp.full(len(x), case["t"])
    left = stored_noise([z[f"{key}/noise_{i}"] for i in range(case["noises"])])
    rng = jax.random.key(0)
    with jax.disable_jit():
        x_next, x_mean = projection(rng, *update.update_fn(rng, x, t), t)
    assert not left
    assert_golden(x_next, z, f"{key}/x_next")
    assert_golden(x_mean, z, f"{key}/x_mean")


@pytest.mark.parametrize("case", cases_of("inpaint_run", "colorize_run"), ids=lambda c: c["key"])
def test_golden_run(case, stored_noise):
    z, key = load("controllable"), case["key"]
    sde = sde_of(case["sde"], parse(z, "config") | {"N": case["N"]})
    data, mask, gray = stored_inputs()
    build = get_pc_inpainter if case["task"] == "inpaint_run" else get_pc_colorizer
    sampler = build(
        sde,
        PREDICTORS[case["predictor"]],
        CORRECTORS[case["corrector"]],
        published=True,
        snr=case["snr"],
        n_steps=case["n_steps"],
        denoise=case["denoise"],
        eps=case["eps"],
    )
    given = (data, mask) if case["task"] == "inpaint_run" else (gray,)
    assert len(z[f"{key}/noises"]) == case["n_noises"] and case["inverse_scaler"] == "identity"
    left = stored_noise(z[f"{key}/noises"])
    with jax.disable_jit():
        samples, _ = sampler(jax.random.key(0), toy_score(sde), *given)
    assert not left
    assert_golden(samples, z, f"{key}/result")


def test_golden_color_transform():
    """Of the published 8 digits and of a numerical inverse; ours is exact."""
    z = load("controllable")
    data = jnp.asarray(nhwc(z["in/data"]))
    np.testing.assert_allclose(decouple(jnp.eye(3)), z["colorize/M"], atol=2e-7)
    np.testing.assert_allclose(couple(jnp.eye(3)), z["colorize/invM"], atol=2e-7)
    assert_golden(decouple(data), z, "colorize/decouple_data")
    assert_golden(couple(data), z, "colorize/couple_data")


# What must hold


STEPS = {"predictor": PREDICTORS["euler_maruyama"], "corrector": CORRECTORS["langevin"]}


def example():
    """Images, and masks that differ between them and between their channels."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    return data, (rng.random((3, 8, 8, 3)) < 0.5).astype(np.float32)


def run(sampler, sde, *given):
    x, _ = jax.jit(lambda rng: sampler(rng, toy_score(sde), *given))(jax.random.key(0))
    return np.asarray(x)


def states():
    """What a sampler's step might leave: x and x_mean."""
    return np.random.default_rng(1).normal(size=(2, 3, 8, 8, 3)).astype(np.float32)


def project(projection, sde, x, x_mean):
    """x and x_mean after the last step of a sampler."""
    t = jnp.full(len(x), sde.t_min)
    return (np.asarray(a) for a in projection(jax.random.key(3), x, x_mean, t))


@pytest.mark.parametrize("name", list(SDES))
def test_projection_gives_the_known_pixels_and_nothing_else(name):
    """x at the noise level of the time, x_mean the pixels themselves; NaN where nothing is known.

    The published x_mean carries the noise of x in the hole, and mu(t) times the known pixels.
    """
    sde, (data, mask) = SDES[name](), example()
    data = np.where(mask, data, np.nan)
    x, x_mean = states()
    mu, sigma = (float(c[0]) for c in sde.marginal_coeffs(jnp.asarray([sde.t_min])))
    noised, result = project(inpainting_projection(sde, data, mask), sde, x, x_mean)
    np.testing.assert_array_equal(result, np.where(mask, data, x_mean))
    np.testing.assert_array_equal(noised[mask == 0], x[mask == 0])
    z = ((noised - mu * data) / sigma)[mask == 1]
    assert abs(z.mean()) < 4.5 / z.size**0.5 and abs(z.std() - 1) < 4.5 / z.size**0.5
    published = inpainting_projection(sde, data, mask, published=True)
    _, result = project(published, sde, x, x_mean)
    np.testing.assert_allclose(result, np.where(mask, mu * data, x), rtol=1e-6)


def test_known_pixels_come_back_and_the_hole_is_never_read():
    """Bit for bit, though mu(eps) < 1."""
    sde, (data, mask) = VPSDE(N=30), example()
    sampler = get_pc_inpainter(sde, **STEPS)
    x = run(sampler, sde, data, mask)
    np.testing.assert_array_equal(x[mask == 1], data[mask == 1])
    assert np.isfinite(x).all() and (x != data)[mask == 0].all()
    np.testing.assert_array_equal(run(sampler, sde, np.where(mask, data, np.nan), mask), x)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_takes_a_projection(name):
    """Pixels that do not depend on each other come out as if nothing were known of the others."""
    sde, (data, mask) = VPSDE(N=30), (a[:, :2, :2] for a in example())
    x = run(SOLVERS[name](sde, projection=inpainting_projection(sde, data, mask)), sde, data.shape)
    np.testing.assert_array_equal(x[mask == 1], data[mask == 1])
    if name == "adaptive_sde":  # whose steps depend on all pixels
        assert np.isfinite(x).all() and (x != data)[mask == 0].all()
    else:
        plain = run(SOLVERS[name](sde), sde, data.shape)
        np.testing.assert_allclose(x[mask == 0], plain[mask == 0], rtol=1e-4, atol=1e-5)


def test_one_image_is_filled_in_many_ways():
    """Data and mask of one example, projected onto a batch of samples."""
    sde, (data, mask) = VPSDE(N=30), example()
    projection = inpainting_projection(sde, data[:1], mask[:1])
    x = run(get_pc_sampler(sde, **STEPS, projection=projection), sde, (2, *data.shape[1:]))
    for sample in x:
        np.testing.assert_array_equal(sample[mask[0] == 1], data[0][mask[0] == 1])
    assert (x[0] != x[1])[mask[0] == 0].all()


@pytest.mark.parametrize("name", list(SDES))
@pytest.mark.parametrize("basis", list(COLOR_BASES))
def test_projection_gives_the_luma_and_keeps_the_colors(name, basis):
    sde, gray = SDES[name](), luma(example()[0], basis)
    projection = colorization_projection(sde, gray, basis)
    for before, after in zip(states(), project(projection, sde, *states()), strict=True):
        color = decouple(before, basis)[..., 1:]
        np.testing.assert_allclose(decouple(after, basis)[..., 1:], color, atol=1e-6)
    np.testing.assert_allclose(luma(after, basis), gray, atol=1e-6)


def test_luma_of_a_colorized_image_is_the_gray_one():
    basis, sde = "rec709", VPSDE(N=30)
    gray = luma(example()[0], basis)
    x = run(get_pc_colorizer(sde, **STEPS, basis=basis), sde, gray)
    assert x.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(luma(x, basis), gray, atol=1e-6 * np.abs(x).max())
    assert ((x - np.asarray(gray)).std((1, 2, 3)) > 0.1).all()  # there is color


@pytest.mark.parametrize("basis", list(COLOR_BASES))
def test_color_bases_decouple_and_couple(basis):
    x = example()[0]
    np.testing.assert_allclose(couple(decouple(x, basis), basis), x, atol=1e-6)
    rotation = np.asarray(decouple(jnp.eye(3), basis))
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    gray = np.repeat(np.asarray(luma(x, basis)), 3, -1)  # no color
    np.testing.assert_allclose(decouple(gray, basis)[..., 0], decouple(x, basis)[..., 0], atol=1e-6)


def test_without_known_pixels_it_is_the_plain_sampler():
    sde, data = VPSDE(N=30), example()[0]
    inpainter = get_pc_inpainter(sde, **STEPS)
    np.testing.assert_array_equal(
        run(inpainter, sde, data, np.zeros((8, 8, 1), np.float32)),
        run(get_pc_sampler(sde, **STEPS), sde, data.shape),
    )


@pytest.mark.parametrize("name", ["vesde", "vpsde"])
def test_known_part_starts_with_the_noise_of_the_prior(name):
    sde, seen = SDES[name](N=30), []
    data = np.full((4, 32, 32, 3), 0.5, np.float32)

    def score_fn(x, t):
        seen.append(x)
        return toy_score(sde)(x, t)

    sampler = get_pc_inpainter(sde, **STEPS)
    with jax.disable_jit():
        sampler(jax.random.key(0), score_fn, data, np.ones((32, 32, 1), np.float32))
    mu, sigma = (float(c[0]) for c in sde.marginal_coeffs(jnp.asarray([sde.T])))
    error = 4.5 / data.size**0.5
    np.testing.assert_allclose(seen[0].mean(), mu * 0.5, atol=error * sigma)
    np.testing.assert_allclose(seen[0].std(), sigma, rtol=error)


def pairs_score(sde, correlation):
    """The score of pairs of standard normal numbers."""
    return correlated_score(sde, np.zeros(2), np.array([[1, correlation], [correlation, 1]]))


PAIRS = 2000


def fill_pairs(correlation, known, n_steps=0, jump=1):
    """Mean and variance of the second number, given the first."""
    sde, predictor = VPSDE(N=100), PREDICTORS["euler_maruyama"]
    projection = inpainting_projection(sde, jnp.full((PAIRS, 2), known), jnp.asarray([1.0, 0.0]))
    corrector = CORRECTORS["none"]
    if n_steps:
        corrector = get_resampling_corrector(predictor, projection, jump)
    sampler = get_pc_sampler(
        sde, predictor, corrector, n_steps=max(n_steps, 1), projection=projection
    )
    score_fn = pairs_score(sde, correlation)
    x, _ = simulate(lambda rng: sampler(rng, score_fn, (PAIRS, 2)), 1)
    assert (np.asarray(x[:, 0]) == np.float32(known)).all()
    return np.array([x[:, 1].mean(), x[:, 1].var()])


def test_hole_that_knows_nothing_of_the_rest_gets_the_data():
    """Replacement is exact then; the predictor's steps leave 12 / N, as without it."""
    mean, var = fill_pairs(0.0, known=2.0)
    assert abs(mean) < 4.5 / PAIRS**0.5 and abs(var - 1) < 4.5 * (2 / PAIRS) ** 0.5 + 0.12


@pytest.mark.slow
def test_resampling_brings_the_hole_closer_to_the_posterior():
    """N(0.9 * 2, 1 - 0.9^2), of which plain replacement misses more than one standard deviation."""
    exact = np.array([1.8, 0.19])
    assert fill_pairs(0.9, 2.0)[0] - exact[0] < -(0.19**0.5)
    for jump in (1, 10):
        error = np.abs(fill_pairs(0.9, 2.0, n_steps=9, jump=jump) - exact)
        assert error[0] < 0.12 and error[1] < 0.06, (jump, error)


@pytest.mark.parametrize(
    "name, method", crossed(["vesde", "vpsde"], ["pc", "heun", "dpmpp_2m_sde"])
)
def test_hole_of_a_conditioned_score_gets_the_posterior(name, method):
    """The same posterior, without resampling: projection and likelihood together are exact."""
    sde, known = SDES[name](N=400), jnp.full((PAIRS, 2), 2.0)
    projection = inpainting_projection(sde, known, jnp.asarray([1.0, 0.0]))
    if method == "pc":
        predictor, corrector = PREDICTORS["euler_maruyama"], CORRECTORS["none"]
        sampler = get_pc_sampler(sde, predictor, corrector, projection=projection)
    else:
        sampler = SOLVERS[method](sde, steps=40, projection=projection)
    likelihood = MMPS(sde, lambda x: x[:, :1], known[:, :1], std=0.01, iterations=1)
    score_fn = likelihood(pairs_score(sde, 0.9))
    x, _ = simulate(lambda rng: sampler(rng, score_fn, (PAIRS, 2)), 1)
    assert (np.asarray(x[:, 0]) == 2).all()
    spread = 0.19**0.5
    assert abs(x[:, 1].mean() - 1.8) < (4.5 / PAIRS**0.5 + 0.02) * spread
    assert abs(x[:, 1].var() / 0.19 - 1) < 4.5 * (2 / PAIRS) ** 0.5 + 0.04


@pytest.mark.parametrize("n_steps, jump", [(1, 1), (2, 3)])
def test_resampling_counts_its_evaluations(n_steps, jump):
    sde, calls = VPSDE(beta_max=2.0, N=8), []
    projection = inpainting_projection(sde, jnp.zeros((1, 2)), jnp.asarray([0.0, 1.0]))
    predictor = PREDICTORS["ancestral_sampling"]

    def score_fn(x, t):
        calls.append(float(t[0]))
        return -x

    sampler = get_pc_sampler(
        sde, predictor, get_resampling_corrector(predictor, projection, jump),
        n_steps=n_steps, projection=projection,
    )  # fmt: skip
    with jax.disable_jit():
        _, nfe = sampler(jax.random.key(0), score_fn, (1, 2))
    assert nfe == 8 * (n_steps + 1)
    # From levels 7 to 0: a multiple of the jump begins n_steps times `jump` steps.
    levels = [k for level in range(7, -1, -1) for k in resampled(level, n_steps, jump) + [level]]
    np.testing.assert_array_equal([int(sde.level_index(jnp.asarray(t))) for t in calls], levels)


def resampled(level, n_steps, jump):
    starts = level % jump == 0 and level > 0
    return list(range(level, level - jump, -1)) * n_steps if starts else []


def test_conditional_sampler_samples_the_changed_score():
    sde = VPSDE(N=30)

    def condition(score_fn):
        return lambda x, t: score_fn(x, t) + 1.0

    conditional = get_pc_conditional_sampler(sde, condition, **STEPS, denoise=False)
    plain = get_pc_sampler(sde, **STEPS, denoise=False)
    by_hand = jax.jit(lambda rng: plain(rng, condition(toy_score(sde)), (4, 3))[0])
    np.testing.assert_array_equal(run(conditional, sde, (4, 3)), by_hand(jax.random.key(0)))


# Bad input


@pytest.mark.parametrize("published", [False, True])
def test_masks_that_do_not_fit_are_refused(published):
    data, _ = example()
    inpainter = get_pc_inpainter(VPSDE(N=30), **STEPS, published=published)
    call = functools.partial(inpainter, jax.random.key(0), None, data)
    with pytest.raises(ValueError, match=r"mask of shape \(8, 9, 1\) does not fit"):
        call(np.ones((8, 9, 1)))
    with pytest.raises(ValueError, match="only 1 .known. and 0"):
        call(np.full((8, 8, 1), 0.5))


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (8, 8, 1), (3, 8, 8)])
def test_gray_images_of_another_shape_are_refused(shape):
    colorizer = get_pc_colorizer(VPSDE(N=30), **STEPS)
    with pytest.raises(ValueError, match=r"gray image of shape .* must be a batch \(B, H, W, 1\)"):
        colorizer(jax.random.key(0), None, np.zeros(shape))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="unknown color basis 'yuv'; choose from: rgb_mean"):
        get_pc_colorizer(VPSDE(N=30), **STEPS, basis="yuv")
    with pytest.raises(ValueError, match="jump=0"):
        get_resampling_corrector(PREDICTORS["euler_maruyama"], None, 0)
