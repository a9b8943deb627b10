"""Denoising against Gaussian data, for which everything is known, and the task of an evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import runs
from oracles import correlated_score, gaussian_score, linear_posterior
from scorax import evaluators, run_lib, sampling
from scorax.conditioning.denoising import (
    DENOISERS,
    get_denoiser,
    langevin,
    noise_time,
    observed_score,
    sample_posterior,
    tweedie,
)
from scorax.datasets import get_source
from scorax.experiment import SCORE, Experiment, build
from scorax.losses import score_matching_error
from scorax.metrics import image_pairs
from scorax.models.denoising_cnn import DenoisingCNN
from scorax.noise_levels import last_level
from scorax.sde_lib import SDES, VESDE, VPSDE, get_sde
from scorax.solvers import SOLVERS
from scorax.utils.checkpoints import Checkpoints
from scorax.weights.state_dicts import published_names
from simulation import simulate
from slow import but_slow, crossed

ALL = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))
MEAN = np.array([0.3, -0.5])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.5]])
SIGMA = 0.7
STEP = 8  # of the checkpoint


def exact_score(sde):
    """The score of data N(MEAN, COVARIANCE)."""
    return correlated_score(sde, MEAN, COVARIANCE)


def posterior(y, sigma=SIGMA):
    """Exact mean (B, 2) and covariance of x_0 given y: (B, 2)."""
    return linear_posterior(MEAN, COVARIANCE, np.eye(2), y, sigma**2 * np.eye(2))


# The time of an observation


@ALL
@pytest.mark.parametrize("sigma", [0.04, 0.1, 1.0, 5.0])
def test_noise_time_has_the_observations_ratio_of_noise_to_signal(sde, sigma):
    t = noise_time(sde, sigma)
    mu, std = sde.marginal_coeffs(jnp.asarray(t))
    assert sde.t_min <= t <= sde.T
    np.testing.assert_allclose(std / mu, sigma, rtol=2e-4)


def test_ends_of_the_range_belong_to_it():
    sde = VESDE(0.01, 0.1)
    assert noise_time(sde, 0.1) == pytest.approx(1, abs=1e-6) and noise_time(sde, 0.1) <= 1
    assert noise_time(sde, float(sde.marginal_coeffs(jnp.asarray(sde.t_min))[1])) == sde.t_min


@pytest.mark.parametrize(
    "sigma, message",
    [
        (0.0, "sigma=0: the noise to remove must be positive"),
        (-1.0, "sigma=-1: .* must be positive"),
        (float("nan"), "sigma=nan: .* must be positive"),
        (60.0, r"sigma=60: VESDE knows noise between 0.01 and 50 .*; choose noise in between"),
        (0.001, r"sigma=0.001: VESDE knows noise between 0.01 and 50"),
    ],
)
def test_noise_out_of_range_is_refused(sigma, message):
    sde, y = VESDE(), jnp.zeros((1, 2))
    for denoise in (tweedie, functools.partial(langevin, jax.random.key(0))):
        with pytest.raises(ValueError, match=message):
            denoise(sde, exact_score(sde), y, sigma)


# Closed forms


@ALL
def test_tweedie_is_the_posterior_mean(sde):
    y = np.random.default_rng(0).normal(0, 2, (20, 2))
    found = tweedie(sde, exact_score(sde), jnp.asarray(y, jnp.float32), SIGMA)
    np.testing.assert_allclose(found, posterior(y)[0], atol=2e-3 * SIGMA)


@ALL
def test_score_of_the_observation(sde):
    y = np.random.default_rng(0).normal(0, 2, (20, 2))
    found = observed_score(sde, exact_score(sde), SIGMA)(jnp.asarray(y, jnp.float32))
    precision = np.linalg.inv(COVARIANCE + SIGMA**2 * np.eye(2))
    np.testing.assert_allclose(found, -(y - MEAN) @ precision, rtol=2e-3, atol=1e-3)


def pc(sde, predictor, **options):
    return sampling.get_pc_sampler(
        sde, sampling.PREDICTORS[predictor], sampling.CORRECTORS["none"], **options
    )


SAMPLERS = {
    "reverse_diffusion": functools.partial(pc, predictor="reverse_diffusion"),
    "euler_maruyama": functools.partial(pc, predictor="euler_maruyama"),
    "dpmpp_2m_sde": functools.partial(SOLVERS["dpmpp_2m_sde"], steps=60),
}


@pytest.mark.parametrize("sde, name", crossed(("vesde", "vpsde", "subvpsde"), SAMPLERS))
def test_posterior_samples_have_its_mean_and_covariance(sde, name):
    sde, n, y = SDES[sde](), 20_000, np.array([1.5, 0.8])
    observed = jnp.tile(jnp.asarray(y[None], jnp.float32), (n, 1))
    get_sampler = functools.partial(SAMPLERS[name], sde)
    x, nfe = simulate(
        lambda rng: sample_posterior(rng, sde, exact_score(sde), observed, SIGMA, get_sampler)
    )
    mean, covariance = posterior(y)
    spread = np.sqrt(np.diag(covariance))
    x = np.asarray(x, np.float64)
    # Sampling error, and what a step of these samplers may leave.
    np.testing.assert_allclose((x.mean(0) - mean) / spread, 0, atol=4.5 / n**0.5 + 0.01)
    scale = np.outer(spread, spread)
    error = (np.cov(x.T) - covariance) / scale
    np.testing.assert_allclose(error, 0, atol=4.5 * (2 / n) ** 0.5 + 0.015)
    assert nfe < 1000  # only the part of the grid below the observation's noise


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_langevin_step_by_hand(data_range, stored_noise):
    """A step with eta = 0.02 at sigma = 0.1, on the score -y / (1 + 0.01) of data N(0, 1)."""
    y = np.array([[0.5, 0.999, 0.001, -0.5]], np.float32)
    z = np.array([[1.0, 2.0, -1.0, 0.0]], np.float32)
    stored_noise([z])
    sde, score_fn = VESDE(), gaussian_score(VESDE())
    found = langevin(jax.random.key(0), sde, score_fn, y, 0.1, data_range, eta=0.02, steps=1)
    # sqrt(2 eta) = 0.2: noise of 0.02 z. The drift is -0.0198020 y.
    by_hand = [0.5100990, 1.0, -0.0190198, -0.4900990]  # 1.0192178 is beyond the range
    if data_range[0] == 0:
        by_hand[2:] = [0.0, 0.0]
    np.testing.assert_allclose(found, [by_hand], atol=1e-6)


def test_langevin_has_the_moments_of_its_linear_recursion():
    """Far from the ends of the range y <- a y + noise, of a Gaussian score; n steps of it."""
    sde, n, eta, steps = VPSDE(), 20_000, 0.05, 30
    score_fn, y = gaussian_score(sde), jnp.full((n, 1), 3.0)
    x = jax.jit(
        lambda rng: langevin(rng, sde, score_fn, y, SIGMA, (-50.0, 50.0), eta=eta, steps=steps)
    )(jax.random.key(1))
    a = 1 - eta / (1 + SIGMA**2)
    variance = 2 * eta * SIGMA**2 * (1 - a ** (2 * steps)) / (1 - a**2)
    assert float(x.mean()) == pytest.approx(3 * a**steps, abs=4.5 * (variance / n) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, rel=4.5 * (2 / n) ** 0.5)


# The network that knows one level


@pytest.mark.parametrize("sde", [VESDE(0.01, 0.1), VPSDE()], ids=lambda s: type(s).__name__)
def test_objective_is_the_squared_error_of_the_denoised_image(sde):
    """The published loss MSE(y + sigma^2 s(y), x), whatever the network says; y = x + sigma n."""
    rng = np.random.default_rng(0)
    x, n, output = (jnp.asarray(rng.random((3, 4, 4, 2)), jnp.float32) for _ in range(3))
    level = last_level(sde, jnp.asarray([0.1, 0.5, 0.9]))
    mu, sigma = (float(c) for c in sde.marginal_coeffs(jnp.asarray(sde.T)))
    error = score_matching_error(lambda x_t, t: output, x, level, n)
    ratio = sigma / mu
    clean = x + ratio * n + ratio**2 * (mu * output)  # with the score of y, mu times that of x_t
    np.testing.assert_allclose(error, (clean - x) ** 2, rtol=1e-4, atol=1e-6 * ratio**2)


def test_cnn_sees_seven_pixels_and_neither_level_nor_class():
    model, x = DenoisingCNN(nf=3), jnp.asarray(np.random.default_rng(0).random((1, 15, 15, 3)))
    x = x.astype(jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x, jnp.ones(1))
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(*(apply(params, x, jnp.full(1, t)) for t in (0.0, 5.0)))
    gradient = jax.jit(jax.grad(lambda x: apply(params, x, jnp.ones(1))[0, 7, 7].sum()))(x)
    seen = np.argwhere(np.abs(gradient[0]).sum(-1) > 0)
    np.testing.assert_array_equal([seen.min(0), seen.max(0)], [[4, 4], [10, 10]])


def test_published_cnn_has_its_channels():
    model = DenoisingCNN()
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)), jnp.ones(1))
    kernels = [v.shape for v in jax.tree.leaves(params) if len(v.shape) == 4]
    assert sorted(kernels) == [(3, 3, 3, 64), (3, 3, 64, 128), (3, 3, 128, 3)]
    with pytest.raises(ValueError, match=r"model.nf=64 and model.ch_mult=\(\) must be positive"):
        DenoisingCNN(ch_mult=())
    with pytest.raises(ValueError, match="score_sde has no network like DenoisingCNN"):
        published_names(get_config())


# Denoisers through the config


def get_config(name="denoising/mnist_langevin", **sections):
    return runs.get_config(name, **sections)


@pytest.mark.parametrize("name", DENOISERS)
def test_configured_denoiser_brings_gaussian_data_closer_to_the_truth(name):
    """Data N(0.5, 0.05^2) with noise 0.1: Tweedie leaves 1 / 5 of it, a posterior draw 2 / 5."""
    config = get_config("ve/mnist", sampling={"method": "dpmpp_2m_sde", "steps": 20})
    sde, spread, sigma = get_sde(config), 0.05, 0.1
    score_fn = gaussian_score(sde, 0.5, spread**2)

    x, n = jax.random.normal(jax.random.key(0), (2, 400, 8, 8, 1))
    x = 0.5 + spread * x
    denoise = get_denoiser(config, name, sde, sigma, (0.0, 1.0))
    found, nfe = jax.jit(lambda rng, y: denoise(rng, score_fn, y))(jax.random.key(1), x + sigma * n)
    fraction = float(jnp.mean((found - x) ** 2)) / sigma**2
    assert 0 < fraction < 1
    if name not in ("tweedie", "posterior", "langevin"):
        return  # a new row, of which no more is known
    assert int(nfe) == {"tweedie": 1, "posterior": 20, "langevin": 200}[name]
    # 200 steps bring y - 0.5 down to exp(-0.02 / 0.0125) of it, and add noise of variance 6e-5.
    a = (1 - 1e-4 / 0.0125) ** 200
    noise = 2e-6 * (1 - a**2) / (1 - (1 - 1e-4 / 0.0125) ** 2)
    langevin = ((1 - a) ** 2 * spread**2 + a**2 * sigma**2 + noise) / sigma**2
    expected = {"tweedie": 0.2, "posterior": 0.4, "langevin": langevin}[name]
    np.testing.assert_allclose(fraction, expected, rtol=0.05)


def test_configured_denoiser_refuses_what_it_cannot_do():
    config = get_config("ve/mnist")
    sde = get_sde(config)
    with pytest.raises(ValueError, match="'wiener'; choose from: tweedie, posterior, langevin"):
        get_denoiser(config, "wiener", sde, 0.1, (0.0, 1.0))
    denoise = get_denoiser(config, "tweedie", sde, 0.1, (0.0, 1.0))
    with pytest.raises(
        ValueError, match=r"\(2, 9, 8, 1\) cannot be denoised .* \(8, 8, 1\); scale"
    ):
        denoise(jax.random.key(0), lambda x, t: x, jnp.zeros((2, 9, 8, 1)))


ERRORS = [  # config, section and fields, what the message has to say
    ("ve/mnist", "eval", {"denoisers": ("x",)}, "denoise.*'x'; choose from: tweedie"),
    ("ve/mnist", "eval", {"denoisers": ()}, r"eval.denoisers=\(\) is empty; choose from: tweedie"),
    ("ve/mnist", "eval", {"noise_std": 0.0}, "eval.noise_std=0.0 must be greater than 0"),
    ("ve/mnist", "eval", {"noise_std": 90.0}, "eval.noise_std=90: .*knows noise between 0.01 and"),
    ("vp/mnist", "eval", {"noise_std": 1e-4}, "eval.noise_std=0.0001: sigma=0.0002: VPSDE knows"),
    ("ve/mnist", "eval", {"num_denoised": 0}, "eval.num_denoised=0 must be at least 1"),
    (
        "ve/mnist",
        "eval",
        {"denoisers": ("langevin",), "langevin_eta": 0.0},
        "langevin_eta=0.0 must be greater than 0",
    ),
    (
        "ve/mnist",
        "eval",
        {"denoisers": ("langevin",), "langevin_steps": 0},
        "langevin_steps=0 must be at least 1",
    ),
    ("ve/mnist", "data", {"image_size": 4}, "SSIM with a window of 7 pixels of images of 4x4"),
    (
        *("denoising/mnist_langevin", "eval", {"denoisers": ("tweedie", "posterior")}),
        "'posterior', which needs a score at all noise levels",
    ),
    (
        *("denoising/mnist_langevin", "eval", {"noise_std": 0.2}),
        "eval.noise_std=0.2, but training.objective='last_level' teaches .* noise of 0.1 alone",
    ),
]


@pytest.mark.parametrize("name, section, fields, message", ERRORS, ids=[e[3][:30] for e in ERRORS])
def test_what_cannot_be_denoised_is_told_before_anything_is_compiled(
    name, section, fields, message
):
    config = get_config(name)
    with config.unlocked():
        config.eval.tasks = ("denoise",)
        config[section].update(fields)
    checked = Experiment(config, get_sde(config), None, None, None)
    with pytest.raises(ValueError, match=message) as error:
        evaluators.check(checked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "task", [t for t, e in evaluators.EVALUATORS.items() if e.networks == (SCORE,)]
)
def test_network_that_knows_one_level_is_not_sampled(task):
    config = get_config(eval={"tasks": (task,), "features": "classifier"})
    with pytest.raises(ValueError, match="needs a score at all noise levels.*leave the task out"):
        evaluators.check(build(config))


def test_training_at_one_level_draws_no_samples():
    with pytest.raises(ValueError, match="'last_level'.*set training.snapshot_sampling=False"):
        build(get_config(training={"snapshot_sampling": True}))


# The task


def save_checkpoint(config, workdir):
    """A run with an untrained network whose averaged parameters are none of the others."""
    state = jax.device_get(build(config).init_state())
    ema = jax.tree.map(lambda x: 3 * x, state.params)
    state = state.replace(step=np.int32(STEP), params_ema=ema)
    checkpoints = Checkpoints(workdir / "checkpoints", 1)
    checkpoints.save(STEP, state, {"next_batch": STEP}, config)
    checkpoints.close()
    return state


@pytest.mark.parametrize("centered", but_slow([False, True], lambda c: c))
def test_task_denoises_images_of_the_split(centered, tmp_path):
    """Twelve images in rounds of eight; a second call finds them done."""
    config = get_config(
        data={"centered": centered},
        model={"sigma_max": 0.2 if centered else 0.1},
        eval={"num_denoised": 12, "denoisers": ("tweedie", "langevin")},
    )
    state = save_checkpoint(config, tmp_path)
    report = run_lib.evaluate(config, str(tmp_path))["denoise"]
    folder = tmp_path / "eval" / f"step_{STEP}"
    arrays = dict(np.load(folder / "denoise.npz"))
    source = get_source(config, "test")
    truth = np.stack([source[i]["image"] for i in range(12)])
    np.testing.assert_array_equal(arrays["originals"], truth)

    noise = arrays["noisy"] - truth / 255
    assert noise.std() == pytest.approx(0.1, rel=4.5 * (0.5 / noise.size) ** 0.5)
    assert np.abs(noise.mean()) < 4.5 * 0.1 / noise.size**0.5
    assert np.unique(noise.round(5)).size > 0.9 * noise.size  # no draw appears twice

    model, scale = build(config).model, 2 if centered else 1
    y = scale * arrays["noisy"] - (scale - 1)
    score = model.apply({"params": state.params_ema}, y, np.ones(12))
    clean = np.clip((y + (0.1 * scale) ** 2 * score + scale - 1) / scale, 0, 1)
    assert np.abs(arrays["tweedie"] - 255 * clean).max() < 0.51
    assert (arrays["langevin"] != arrays["tweedie"]).any()

    originals = (truth / 255).astype(np.float32)
    for name, x in (("noisy", arrays["noisy"]), ("tweedie", clean.astype(np.float32))):
        for metric in ("psnr", "ssim"):
            expected = getattr(image_pairs, metric)(x, originals, data_range=1).mean()
            np.testing.assert_allclose(report[name][metric], expected, rtol=1e-4)
    assert report["noisy"]["psnr"] == pytest.approx(20, abs=0.3)
    assert report["clipped"]["psnr"] > report["noisy"]["psnr"]
    assert report["tweedie"]["nfe"] == 1 and report["langevin"]["nfe"] == 200
    assert (report["num_denoised"], report["noise_std"]) == (12, 0.1)

    picture = np.asarray(Image.open(folder / "denoise.png"))
    cell = (picture.shape[1] - 2) // 4  # four columns, each with two pixels of black
    pixels = picture[2:cell, 2:cell]
    zoom = len(pixels) // 8
    np.testing.assert_array_equal(pixels[::zoom, ::zoom], truth[0, ..., 0])
    assert (picture.shape[0] - 2) // 8 == cell  # rows

    before = (folder / "denoise.npz").stat().st_mtime_ns
    again = run_lib.evaluate(config, str(tmp_path))["denoise"]
    assert again == report and (folder / "denoise.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_denoisers_do_not_change_each_others_results_and_rounds_are_kept(tmp_path, monkeypatch):
    config = get_config(eval={"num_denoised": 12, "denoisers": ("langevin",)})
    save_checkpoint(config, tmp_path)
    run_lib.evaluate(config, str(tmp_path))
    path = tmp_path / "eval" / f"step_{STEP}" / "denoise.npz"
    alone = dict(np.load(path))
    config = get_config(eval={"num_denoised": 12, "denoisers": ("tweedie", "langevin")})
    calls, psnr = [], image_pairs.psnr

    def crash(*arguments, **options):
        calls.append(1)
        if len(calls) == 5 + 2:  # four for a round: noisy, clipped, two denoisers
            raise RuntimeError("lightning")
        return psnr(*arguments, **options)

    monkeypatch.setattr(image_pairs, "psnr", crash)
    with pytest.raises(RuntimeError, match="lightning"):
        run_lib.evaluate(config, str(tmp_path))
    run_lib.evaluate(config, str(tmp_path))
    assert len(calls) == 7 + 4  # the first round was kept
    both = dict(np.load(path))
    for name in ("originals", "noisy", "langevin"):
        np.testing.assert_array_equal(both[name], alone[name])


def test_denoised_images_that_are_not_finite_are_told(tmp_path, monkeypatch):
    config = get_config(eval={"denoisers": ("tweedie",), "num_denoised": 2})
    save_checkpoint(config, tmp_path)
    nan = lambda self, params, model_state, labels=None: lambda x, t: jnp.nan * x  # noqa: E731
    monkeypatch.setattr(Experiment, "score_fn", nan)
    with pytest.raises(FloatingPointError, match="denoised by 'tweedie' are not finite.*step 8"):
        run_lib.evaluate(config, str(tmp_path))


@pytest.mark.slow
def test_denoiser_is_trained_without_samples(tmp_path):
    config = get_config("denoising/photographs_langevin")
    state = run_lib.train(config, str(tmp_path))
    assert int(state.step) == config.training.n_iters
    assert not (tmp_path / "samples").exists()
    losses = runs.scalars(tmp_path, "training_loss")
    # The network starts close to a score of 0, for which the squared error is that of the noise.
    assert losses[2] == pytest.approx(0.01, rel=0.2) and losses[8] < 0.011
