"""Where network meets SDE: reference scores, every parametrisation, refused combinations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, cases, config_of, load, nhwc, params_of, parse, sde_of
from networks import edm_inner
from scorax.configs import base
from scorax.models.utils import (
    PARAMETRIZATIONS,
    PRECONDITIONINGS,
    edm_denoise,
    get_model,
    get_parametrization,
    get_score_fn,
    init_model,
)
from scorax.sde_lib import SDES, VESDE, get_sde, iddpm_sigmas
from scorax.utils.arrays import batch_mul

ALL = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))


@pytest.mark.parametrize("case", cases("score_fn"), ids=lambda c: c["key"])
def test_golden(case):
    z, key = load("score_fn"), case["key"]
    config = config_of(parse(z, case["model"] + "/config"))
    # Sub-VP has continuous training only and takes that path whatever is asked for.
    config.training.continuous = case["continuous"] or case["sde"] == "subvp"
    config.training.sde = case["sde"] + "sde"
    sde = get_sde(config)
    assert sde == sde_of(case["sde"], parse(z, "config"))
    model, parametrization = get_model(config), get_parametrization(config, sde)
    params = params_of(z, case["model"] + "/params/", config)
    score = jax.jit(get_score_fn(sde, model, params, {}, parametrization))
    x, t = jnp.asarray(nhwc(z[key + "/x"])), jnp.asarray(z["in/t"])
    assert_golden(score(x, t), z, key + "/score")


@pytest.mark.parametrize("case", cases("score_fn"), ids=lambda c: c["key"])
def test_golden_labels(case):
    """What the network is told of the noise level."""
    z, key = load("score_fn"), case["key"]
    config = config_of(parse(z, case["model"] + "/config"))
    config.training.continuous = case["continuous"] or case["sde"] == "subvp"
    config.training.sde = case["sde"] + "sde"
    sde = get_sde(config)
    seen = []

    def net(x, labels):
        seen.append(np.asarray(labels))
        return x

    get_parametrization(config, sde)(sde, net, jnp.ones((4, 2)), jnp.asarray(z["in/t"]))
    np.testing.assert_allclose(seen[0], z[key + "/labels"], rtol=1e-6)


# EDM preconditioning


EDM_CASES = [c for c in cases("edm") if c["kind"] in ("edm_precond", "precond")]
EDM = pytest.mark.parametrize(
    "case", EDM_CASES, ids=lambda c: c["out"].removeprefix("out/precond/")
)


def edm_setting(z, case):
    """The name of the row of a case, its constants, its network, its images and noise levels."""
    x, sigma = jnp.asarray(nhwc(z[case["x"]])), jnp.asarray(z[case["sigma"]])
    if case["kind"] == "edm_precond":
        net = edm_inner(z, labels=case["labels"])
        return "edm", {"sigma_data": case["sigma_data"]}, net, x, sigma
    constants = {}
    if "beta_d" in case:
        constants = {"beta_min": case["beta_min"], "beta_max": case["beta_min"] + case["beta_d"]}
    return f"edm_{case['name']}", constants, edm_inner(z, case["inner"]), x, sigma


@EDM
def test_golden_edm_denoiser(case):
    z = load("edm")
    name, constants, *arguments = edm_setting(z, case)
    row = functools.partial(PRECONDITIONINGS[name], **constants)
    assert_golden(edm_denoise(row, *arguments), z, case["out"])


@EDM
def test_edm_row_is_the_score_of_the_golden_denoiser(case):
    """On a VE process the row has to give (D - x) / sigma^2 of the published denoiser."""
    z = load("edm")
    name, constants, net, x, sigma = edm_setting(z, case)
    sde = VESDE(1e-3, 100.0)
    t = sde.time_of_log_snr(-2 * jnp.log(sigma))
    score = PARAMETRIZATIONS[name](sde, net, x, t, **constants)
    denoised = nhwc(z.get(case["out"] + "_f64", z[case["out"]]))
    exact = (denoised - np.asarray(x)) / np.asarray(sigma, float)[:, None, None, None] ** 2
    for ours, reference in zip(score, exact, strict=True):  # scores differ by orders of magnitude
        np.testing.assert_allclose(ours, reference, atol=2e-4 * np.abs(reference).max())


def test_golden_iddpm_levels():
    z = load("edm")
    assert_golden(iddpm_sigmas(), z, "out/iddpm_u")
    sigma = jnp.asarray(z["in/sigma_clamped"])
    index = 999 - np.asarray(PRECONDITIONINGS["edm_iddpm"](sigma).c_noise).astype(int)
    np.testing.assert_array_equal(z["out/iddpm_u"][index], z["out/precond/iddpm_rounded_sigma"])


@ALL
@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@pytest.mark.parametrize("t", [1e-5, 1e-3, 1e-2, 0.1, 0.5, 1.0])
def test_edm_row_is_exact_for_gaussian_data(sde, sigma_data, t):
    """For data N(0, sigma_data^2) the ideal inner network is zero, and the score is known.

    The rounding of x times its score, relative to the score, is all that may remain, at every time
    a sampler or the loss visits: there is no cancellation in the closed form.
    """
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 50)), jnp.float32)
    times = jnp.asarray([t], jnp.float32)
    row = PARAMETRIZATIONS["edm"]
    score = row(sde, lambda x, c: jnp.zeros_like(x), x, times, sigma_data=sigma_data)
    mu, sigma = (np.asarray(c, np.float64)[:, None] for c in sde.marginal_coeffs(times))
    exact = -np.asarray(x, np.float64) / (mu**2 * sigma_data**2 + sigma**2)
    np.testing.assert_allclose(score, exact, rtol=1e-4)


@ALL
@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_edm_rows_are_the_scores_of_their_denoisers_without_cancellation(sde, name):
    """(mu D(x / mu) - x) / sigma^2 in double precision, also where sigma is 1e-6."""
    x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
    times = np.asarray([1e-5, 1e-3, 1e-2, 0.1, 0.5, 1.0], np.float32)

    def net(x, c_noise):
        return jnp.tanh(x + 0.01 * c_noise[:, None, None] + 1)

    score = PARAMETRIZATIONS[name](sde, net, jnp.asarray(x), jnp.asarray(times))
    with jax.enable_x64(True):
        mu, sigma = sde.marginal_coeffs(jnp.asarray(times, jnp.float64))
        clean = edm_denoise(
            PRECONDITIONINGS[name], net, batch_mul(1 / mu, jnp.asarray(x, jnp.float64)), sigma / mu
        )
        exact = np.asarray(batch_mul(sigma**-2, batch_mul(mu, clean) - x))
    for ours, reference in zip(score, exact, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4 * np.abs(reference).max())


# The table


@pytest.mark.parametrize("name, row", list(itertools.product(SDES, PARAMETRIZATIONS)))
def test_every_parametrization_turns_the_ideal_network_into_the_score(name, row):
    """Data at 0: the noise is x / sigma, the denoised image 0, and the score -x / sigma^2.

    Or it says which SDE cannot have it.
    """
    config = base.get_config()
    config.training.sde = name
    config.model.parametrization = row
    if row.endswith(("_index", "iddpm")):
        config.model.embedding_type = "positional"
    sde = get_sde(config)
    parametrization = get_parametrization(config, sde)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 4, 4, 2)), jnp.float32)
    t = jnp.linspace(sde.t_min, sde.T, 5)
    if row == "eps_index" and name not in ("vesde", "vpsde"):
        with pytest.raises(NotImplementedError, match=type(sde).__name__):
            parametrization(sde, lambda x, labels: x, x, t)
        return
    mu, sigma = sde.marginal_coeffs(t)
    if row == "eps_index":
        mu, sigma = sde.discrete_coeffs(sde.level_index(t))
    expected = ideal = batch_mul(-(sigma**-2), x)
    if row in PRECONDITIONINGS:  # c_skip x / mu + c_out F = 0
        c = PRECONDITIONINGS[row](sigma / mu)
        ideal = batch_mul(-c.c_skip / (c.c_out * mu), x)
    elif row.startswith("eps"):
        ideal = batch_mul(1 / sigma, x)

    def net(x, labels):
        assert labels.shape == (5,)
        return ideal

    score = parametrization(sde, net, x, t)
    assert score.dtype == x.dtype
    np.testing.assert_allclose(score, expected, rtol=1e-4)


@ALL
def test_score_sde_names_the_published_rows(sde):
    expected = {
        "VESDE": ("sigma", "sigma_index"),
        "VPSDE": ("eps", "eps_index"),
        "subVPSDE": ("eps", "eps"),
        "SigmaPowerSDE": ("sigma", "sigma"),
        "SignalSDE": ("eps", "eps"),
    }[type(sde).__name__]
    config = base.get_config()
    config.model.embedding_type = "positional"
    for continuous, row in zip((True, False), expected, strict=True):
        config.training.continuous = continuous
        assert get_parametrization(config, sde) is PARAMETRIZATIONS[row]


# Networks through the config


def small_config(**model):
    config = base.get_config()
    config.data.image_size = 8
    m = config.model
    m.nf, m.ch_mult, m.num_res_blocks, m.attn_resolutions = 4, (1,), 1, ()
    m.update(model)
    return config


@pytest.mark.parametrize("train", [False, True])
def test_dropout_follows_the_train_argument(train):
    config = small_config(dropout=0.5, init_scale=1.0)
    sde = get_sde(config)
    model, params, model_state = init_model(jax.random.key(0), config)
    parametrization = get_parametrization(config, sde)
    x, t = jnp.ones((2, 8, 8, 3)), jnp.asarray([0.3, 0.6])

    @jax.jit
    def score(rng):
        return get_score_fn(sde, model, params, model_state, parametrization, train, rng)(x, t)

    a, b = score(jax.random.key(1)), score(jax.random.key(2))
    assert np.array_equal(a, b) != train


@pytest.mark.parametrize("row", PRECONDITIONINGS)
def test_edm_networks_get_their_scaling_from_the_row_and_no_log_twice(row):
    model = get_model(small_config(parametrization=row, embedding_type="positional"))
    assert model.centered and model.log_labels == (row in ("edm_vp", "edm_iddpm"))
    model = get_model(small_config())
    assert not model.centered and model.log_labels


@pytest.mark.parametrize("row, field", [("edm", "sigma_data"), ("edm_vp", "beta_max")])
def test_edm_rows_take_their_constants_from_the_config(row, field):
    config = small_config(parametrization=row, **{field: 3.0})
    sde = get_sde(config)
    arguments = sde, lambda x, c: jnp.cos(x + c[:, None]), jnp.ones((2, 3)), jnp.asarray([0.3, 0.6])
    score = get_parametrization(config, sde)(*arguments)
    np.testing.assert_array_equal(score, PARAMETRIZATIONS[row](*arguments, **{field: 3.0}))
    assert not np.allclose(score, PARAMETRIZATIONS[row](*arguments))


def test_discrete_ve_network_divides_by_falling_sigmas():
    config = small_config(embedding_type="positional", scale_by_sigma=True, num_scales=10)
    config.training.continuous = False
    sigmas = get_model(config).sigmas
    np.testing.assert_allclose(sigmas[::-1], get_sde(config).discrete_sigmas)
    assert sigmas[0] > sigmas[-1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"training.continuous": False}, "fourier.*training.continuous=False.*positional"),
        ({"training.sde": "vpsde", "model.scale_by_sigma": True}, "scale_by_sigma=True.*'eps'"),
        (
            {"model.parametrization": "edm", "model.scale_by_sigma": True},
            "scale_by_sigma=True.*'edm'",
        ),
        (
            {"model.embedding_type": "positional", "model.scale_by_sigma": True},
            "scale_by_sigma=True.*'positional'",
        ),
        ({"model.parametrization": "edm_iddpm"}, "edm_iddpm.*fourier.*positional"),
        ({"model.num_classes": 10, "model.conditional": False}, "num_classes=10.*conditional=True"),
        ({"model.num_classes": -1}, "num_classes=-1 must be 0, or positive"),
        (
            {"model.num_classes": 10, "model.name": "ncsn", "training.continuous": False},
            "num_classes=10.*'ncsn' takes no classes",
        ),
        ({"model.parametrization": "epsilon"}, "'epsilon'.*sigma, sigma_index, eps"),
        ({"model.name": "unet"}, "'unet'.*ncsnpp"),
        ({"model.dtype": "half"}, "'half'.*bfloat16"),
        ({"training.sde": "vp"}, "'vp'.*vpsde"),
        ({"model.nonlinearity": "gelu"}, "'gelu'.*swish"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_configs_that_cannot_work_are_refused_before_anything_compiles(change, message):
    config = base.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        get_model(config)
