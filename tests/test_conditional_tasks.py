"""The tasks that draw images given a measurement of others, with the exact score of Gaussian data.

No network is needed: the state has no parameters, and `SPREAD` is the standard deviation of the
data in the model's range, around their middle.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import runs
from oracles import gaussian_score, replacing_network
from scorax import evaluators, losses
from scorax.conditioning.operators import OPERATORS
from scorax.conditioning.posterior import LIKELIHOODS
from scorax.evaluators import EVALUATORS, BatchSampler
from scorax.evaluators.originals import get_originals, likeness
from scorax.evaluators.problems import Inpainting, Restoration
from scorax.experiment import Experiment
from scorax.sde_lib import get_sde
from scorax.utils import images
from scorax.utils.arrays import batch_mul

SPREAD, SIZE, N, EACH = 0.4, 8, 3, 2
STATE = losses.State(np.int32(1), {}, (), {}, {})
CENTERED = {"ve/mnist": False, "vp/mnist": True}
COLOR = {"num_channels": 3}


@pytest.fixture(autouse=True)
def gaussian(monkeypatch):
    """The exact score takes the network's place."""
    get_score = functools.partial(gaussian_score, variance=SPREAD**2)
    monkeypatch.setattr(Experiment, "score_fn", replacing_network(get_score))


def save_images(folder, pixels):
    """Writes uint8 images (N, H, W, C) as PNG files whose names are in their order."""
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image.squeeze()).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """A folder of colour images."""
    pixels = np.random.default_rng(1).integers(256, size=(N, SIZE, SIZE, 3), dtype=np.uint8)
    return save_images(tmp_path_factory.mktemp("images") / "colors", pixels)


def experiment_of(config="ve/mnist", data=None, sampling=None, **fields):
    """An experiment of 8x8 images without a network, unchecked; fields of `eval`."""
    fields = {"num_conditioned": N, "samples_per_image": EACH} | fields
    data = {"image_size": SIZE, "dataset": "digits", "num_channels": 1} | (data or {})
    sampling = {"steps": 25} | (sampling or {})
    config = runs.get_config(config, eval=fields, data=data, sampling=sampling)
    return Experiment(config, get_sde(config), None, None, None)


def run(task, folder, *arguments, **fields):
    """Evaluates a task; the report, and the arrays of the archive."""
    experiment = experiment_of(*arguments, **fields)
    EVALUATORS[task].check(experiment)
    report = EVALUATORS[task](experiment, STATE, str(folder))
    return report, dict(np.load(folder / f"{task}.npz"))


@pytest.mark.parametrize("config, centered", CENTERED.items())
def test_known_pixels_come_back_exactly(config, centered, tmp_path):
    report, arrays = run("inpaint", tmp_path, config, mask="bottom_half")
    assert experiment_of(config).config.data.centered == centered
    assert report["known_deviation"] == 0
    known = np.broadcast_to(arrays["mask"][None, None] == 1, arrays["samples"].shape)
    originals = np.broadcast_to(arrays["originals"][:, None], known.shape)
    np.testing.assert_array_equal(arrays["samples"][known], originals[known])
    assert (arrays["samples"][:, 0] != arrays["samples"][:, 1]).any()
    assert (arrays["measurements"][:, SIZE // 2 :] == 0.5).all()


@pytest.mark.parametrize("method", ["pc", "dpmpp_2m", "adaptive_sde"])
def test_samples_do_not_depend_on_what_is_hidden(method, tmp_path):
    """Images that differ in the hole alone, with a sampler of each kind."""
    source = get_originals(experiment_of().config)
    first = np.stack([source[i]["image"] for i in range(N)])
    second = first.copy()
    second[:, SIZE // 2 :] = 255 - second[:, SIZE // 2 :]
    found = []
    for name, pixels in (("first", first), ("second", second)):
        folder = save_images(tmp_path / name, pixels)
        fields = {"images": folder, "mask": "bottom_half", "sampling": {"method": method}}
        report, arrays = run("inpaint", tmp_path, **fields)
        np.testing.assert_array_equal(arrays["originals"], pixels)
        assert report["known_deviation"] == 0
        found.append(arrays["samples"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("config, centered", CENTERED.items())
def test_hole_agrees_with_what_is_known(config, centered, monkeypatch):
    """Each pixel of the lower half has correlation 0.9 with its mirror image in the upper half."""

    def score_fn(self, params, model_state, labels=None):
        def score(x, t):
            mu, sigma = self.sde.marginal_coeffs(t)
            mirrored = x[:, ::-1]
            parts = [
                batch_mul(1 / (mu**2 * SPREAD**2 * (1 + c) + sigma**2), (x + sign * mirrored) / 2)
                for sign, c in ((1, 0.9), (-1, -0.9))
            ]
            return -sum(parts)

        return score

    monkeypatch.setattr(Experiment, "score_fn", score_fn)
    n, mean = 256, 0.5 if centered else 0.0
    fields = {"mask": "bottom_half", "known_likelihood": "mmps", "batch_size": n}
    experiment = experiment_of(config, None, {"method": "heun", "steps": 40}, **fields)
    problem = Inpainting(experiment)
    source = get_originals(experiment.config)
    y = np.asarray(problem.measure(jax.random.key(0), source[0]["image"][None] / np.float32(255)))
    sampler = BatchSampler(experiment, problem.get_sampler)
    x = sampler(jax.random.key(1), STATE, given=(np.repeat(y, n, 0),))
    hole = x[:, SIZE // 2 :]
    expected = mean + 0.9 * (y[0, : SIZE // 2][::-1] - mean)
    variance = (SPREAD * (0.5 if centered else 1)) ** 2 * 0.19
    assert np.sqrt(((hole.mean(0) - expected) ** 2).mean()) < 1.3 * np.sqrt(variance / n)
    np.testing.assert_allclose(hole.var(0, ddof=1).mean(), variance, rtol=0.06)


def test_resampling_takes_the_correctors_place(tmp_path):
    fields = {"resampling_steps": 3, "resampling_jump": 1}
    report, _ = run("inpaint", tmp_path, sampling={"steps": 6}, **fields)
    assert report["known_deviation"] == 0
    assert report["nfe"] == 6 * (1 + 3)


@pytest.mark.parametrize("config", CENTERED)
@pytest.mark.parametrize("basis", ["rgb_mean", "rec709"])
def test_colorized_images_have_the_luma_of_the_gray_ones(config, basis, colors, tmp_path):
    report, arrays = run("colorize", tmp_path, config, COLOR, images=colors, color_basis=basis)
    assert report["luma_deviation"] < 3e-6
    assert arrays["measurements"].shape == (N, SIZE, SIZE, 1)
    weights = {"rgb_mean": [1 / 3] * 3, "rec709": [0.2126, 0.7152, 0.0722]}[basis]
    gray = arrays["originals"] / 255 @ np.array(weights)
    np.testing.assert_allclose(arrays["measurements"][..., 0], gray, atol=1e-6)
    inside = ((arrays["samples"] > 0) & (arrays["samples"] < 255)).all(-1)  # not clipped
    luma = arrays["samples"] / 255 @ np.array(weights)
    assert inside.mean() > 0.1
    assert np.abs(luma - gray[:, None])[inside].max() < 0.51 / 255


@pytest.mark.parametrize("config, centered", CENTERED.items())
def test_restored_images_have_the_moments_of_the_posterior(config, centered):
    """Means of 2x2 pixels, of Gaussian data: samples against the linear-Gaussian posterior."""
    unit, std, n = (0.5 if centered else 1.0), 0.1, 256
    v = (unit * SPREAD) ** 2  # of the data in [0, 1], whose mean is `mean`
    fields = {"operator": "block_mean", "operator_factor": 2, "measurement_std": std}
    fields |= {"likelihood": "pigdm", "data_variance": v, "batch_size": n}
    sampling = {"method": "heun", "steps": 40}
    experiment = experiment_of(config, None, sampling, **fields)
    problem = Restoration(experiment)
    source = get_originals(experiment.config)
    y = np.asarray(problem.measure(jax.random.key(0), source[0]["image"][None] / np.float32(255)))
    sampler = BatchSampler(experiment, problem.get_sampler)
    x = sampler(jax.random.key(1), STATE, given=(np.repeat(y, n, 0),))
    mean = 0.5 if centered else 0.0
    pull = lambda y: y.repeat(2, 1).repeat(2, 2) / 4  # noqa: E731
    expected = mean + v / (v / 4 + std**2) * pull(y - mean)
    variance = v - v**2 / (v / 4 + std**2) / 16
    error = x.mean(0) - expected[0]
    assert np.sqrt((error**2).mean()) < 1.3 * np.sqrt(variance / n)
    np.testing.assert_allclose(x.var(0, ddof=1).mean(), variance, rtol=0.05)


@pytest.mark.parametrize("config, centered", CENTERED.items())
def test_gamma_is_that_of_the_model_range(config, centered):
    """gamma = 1 is exact for data without bounds, whose score is 0."""
    fields = {"operator": "identity", "likelihood": "sda", "gamma": 1.0, "measurement_std": 0.1}
    problem = Restoration(experiment_of(config, **fields))
    x = jax.random.normal(jax.random.key(0), (4, SIZE, SIZE, 1))
    y, t = 0.5 * x[::-1], jnp.full(4, 0.3)
    mu, sigma = (float(c[0]) for c in problem.sde.marginal_coeffs(t))
    unit = 0.5 if centered else 1.0

    def log_density(x):
        seen = (x / mu + 1) / 2 if centered else x / mu
        return -jnp.sum((y - seen) ** 2) / (2 * (0.1**2 + (unit * sigma / mu) ** 2))

    guided = problem.condition(y, lambda x, t: jnp.zeros_like(x))(x, t)
    np.testing.assert_allclose(guided, jax.grad(log_density)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_finds_what_was_measured(likelihood, tmp_path):
    """Pixels known but for noise of 0.05; samples of nothing known are 0.5 away."""
    fields = {"operator": "mask", "mask": "every_other_pixel", "measurement_std": 0.05}
    fields |= {"likelihood": likelihood, "gamma": 0.5, "zeta": 30.0, "data_variance": SPREAD**2}
    report, arrays = run("restore", tmp_path, **fields)
    error = (arrays["samples"] - arrays["originals"][:, None].astype(np.float64)) / 255
    known = np.add.outer(np.arange(SIZE), np.arange(SIZE)) % 2 == 0
    assert np.sqrt((error[:, :, known] ** 2).mean()) < 0.15
    assert np.sqrt((error[:, :, ~known] ** 2).mean()) > 0.3
    assert report["likelihood"] == likelihood and report["operator"] == "mask"


def truth_of(arrays):
    return np.repeat(arrays["originals"], EACH, 0).astype(np.float32) / 255


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_measured_and_shown(name, colors):
    fields = {"operator": name, "operator_factor": 2, "operator_width": 0.7, "operator_length": 3.0}
    problem = Restoration(experiment_of(data=COLOR, images=colors, **fields))
    x = jnp.full((2, SIZE, SIZE, 3), 0.75)
    y = np.asarray(problem.measure(jax.random.key(0), x))
    clean = np.asarray(problem.operator(x))
    np.testing.assert_allclose((y - clean).std(), problem.std, rtol=0.2)
    shown = problem.to_image(clean)
    assert shown.shape == x.shape and np.isfinite(shown).all()
    if name in ("identity", "grayscale", "block_mean", "gaussian_blur", "motion_blur"):
        np.testing.assert_allclose(shown, x, rtol=1e-5)
    elif name in ("random_projection", "mask"):
        # A^T A is no identity, but keeps the part of x that is seen.
        flat = [np.asarray(a).reshape(2, -1) for a in (shown, x, clean)]
        inner, square = (flat[0] * flat[1]).sum(1), (flat[2] ** 2).sum(1)
        np.testing.assert_allclose(inner, square, rtol=1e-5)
    np.testing.assert_allclose(problem.misfits(y, np.asarray(x)).mean(), problem.std, rtol=0.2)


@pytest.mark.parametrize("task", ["inpaint", "colorize", "restore"])
def test_report_and_picture(task, colors, tmp_path):
    fields = {"images": colors, "operator_factor": 4, "mask": "box"}
    report, arrays = run(task, tmp_path, data=COLOR, **fields)
    shape = (N, EACH, SIZE, SIZE, 3)
    assert arrays["samples"].shape == shape and arrays["samples"].dtype == np.uint8
    assert report["num_images"] == N and report["samples_per_image"] == EACH
    assert report["images"] == colors
    assert report["seconds"] > 0 and report["compile_seconds"] > 0
    assert report["nfe"] == 25 * 2
    truth, y = arrays["originals"].astype(np.float32) / 255, arrays["measurements"]
    factor = SIZE // y.shape[1]
    shown = np.broadcast_to(y.repeat(factor, 1).repeat(factor, 2), truth.shape)
    expected = {name: x.mean() for name, x in likeness(shown, truth).items()}
    assert report["measurement"] == pytest.approx(expected)
    # The report is of samples that are not yet rounded.
    samples = likeness(arrays["samples"].reshape(-1, *shape[2:]) / 255, truth_of(arrays))
    assert report["samples"]["psnr"] == pytest.approx(samples["psnr"].mean(), abs=0.1)
    assert report["samples"]["ssim"] == pytest.approx(samples["ssim"].mean(), abs=0.01)
    rows = [images.to_uint8(shown)[:, None], arrays["samples"], arrays["originals"][:, None]]
    rows = np.concatenate(rows, 1).reshape(-1, *shape[2:])
    grid = images.make_grid(rows / np.float32(255), columns=EACH + 2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{task}.png")), grid)


@pytest.mark.slow
def test_killed_task_continues_at_its_round(tmp_path, monkeypatch):
    _, expected = run("inpaint", tmp_path, num_conditioned=10)
    draw, drawn = BatchSampler.__call__, []

    def crash(self, *arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise RuntimeError("lightning")
        return draw(self, *arguments)

    monkeypatch.setattr(BatchSampler, "__call__", crash)
    (tmp_path / "inpaint.npz").unlink()
    fields = {"num_conditioned": 10, "samples_per_image": 3}
    with pytest.raises(RuntimeError, match="lightning"):
        run("inpaint", tmp_path, **fields)
    assert not (tmp_path / "inpaint.npz").exists()
    report, arrays = run("inpaint", tmp_path, **fields)
    assert len(drawn) == 3 + 2  # two of the four rounds were kept
    assert arrays["samples"].shape == (10, 3, SIZE, SIZE, 1) and report["num_images"] == 10
    np.testing.assert_array_equal(arrays["measurements"], expected["measurements"])


def test_other_settings_do_the_task_again():
    for task, field in (("inpaint", "mask"), ("restore", "operator"), ("colorize", "color_basis")):
        old = EVALUATORS[task].settings(experiment_of(), STATE)
        new = EVALUATORS[task].settings(experiment_of(**{field: "other"}), STATE)
        assert {k for k in old if old[k] != new[k]} == {f"eval.{field}"}


def check(task, config="ve/mnist", data=None, sampling=None, **fields):
    evaluators.check(experiment_of(config, data, sampling, tasks=(task,), **fields))


ERRORS = [  # task, fields of eval, what the message has to say
    ("inpaint", {"mask": "x"}, "unknown mask 'x'; choose from: square"),
    ("inpaint", {"mask_amount": "x"}, "'x'; choose from: light, heavy"),
    ("inpaint", {"mask": "no.png"}, "no.png: not a readable image"),
    ("inpaint", {"known_likelihood": "x"}, r"likelihood \(eval.known_likelihood\) 'x'; choose"),
    ("inpaint", {"num_conditioned": 0}, "eval.num_conditioned=0 must be at least 1"),
    ("inpaint", {"samples_per_image": 0}, "eval.samples_per_image=0 must be at least 1"),
    ("inpaint", {"resampling_steps": -1}, "eval.resampling_steps=-1 must be at least 0"),
    ("inpaint", {"resampling_steps": 1, "resampling_jump": 0}, "jump=0 .* at least 1"),
    ("inpaint", {"images": "nowhere"}, "eval.images='nowhere' does not exist"),
    ("inpaint", {"split": "dev"}, "eval.split 'dev'"),
    ("colorize", {}, "task colorize takes colour images, but data.num_channels=1"),
    ("restore", {"operator": "x"}, r"operator \(eval.operator\) 'x'; choose from: identity"),
    ("restore", {"operator": "grayscale"}, "'grayscale': a luma takes colour images"),
    ("restore", {"operator_factor": 3}, "'block_mean': blocks of 3 pixels do not divide"),
    ("restore", {"operator": "gaussian_blur", "operator_width": 5.0}, "too wide for images"),
    ("restore", {"operator": "random_projection", "operator_fraction": 1e-3}, "between 1 and 64"),
    ("restore", {"operator": "mask", "mask": "x"}, "'mask': unknown mask 'x'"),
    ("restore", {"likelihood": "x"}, r"likelihood \(eval.likelihood\) 'x'; choose from: sda"),
    ("restore", {"measurement_std": 0.0}, "eval.measurement_std=0.0 must be positive"),
    ("restore", {"likelihood": "sda", "gamma": -1.0}, "gamma=-1.0 .* at least 0"),
    (
        "restore",
        {"likelihood": "pigdm", "data_variance": 0.0},
        "data_variance=0.0 must be greater than 0",
    ),
    ("restore", {"likelihood_iterations": -1}, "eval.likelihood_iterations=-1 must be at least 0"),
    ("restore", {"zeta": -1.0}, "eval.zeta=-1.0 must be at least 0"),
]


@pytest.mark.parametrize("task, fields, message", ERRORS, ids=[f"{e[0]}-{e[1]}" for e in ERRORS])
def test_what_cannot_be_done_is_told_before_anything_is_compiled(task, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        check(task, **fields)
    assert "\n" not in str(error.value)


def test_samplers_that_cannot_be_told_are_refused():
    with pytest.raises(ValueError, match="inpaint: sampling.method='ode' .* cannot impose"):
        check("inpaint", sampling={"method": "ode"})
    with pytest.raises(ValueError, match="resampling_steps=2 needs sampling.method='pc'"):
        check("inpaint", sampling={"method": "heun"}, resampling_steps=2)


MASKS = {  # what is wrong -> pixels, message
    "size": (np.zeros((4, 4), np.uint8), "4x4 pixels, but the images have 8x8"),
    "values": (np.full((8, 8), 99, np.uint8), "black .* and white .* only"),
}


@pytest.mark.parametrize("pixels, message", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("task", ["inpaint", "restore"])
def test_masks_that_do_not_fit_are_named(task, pixels, message, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=f"mask.png: .*{message}"):
        check(task, mask=str(tmp_path / "mask.png"), operator="mask")


FILES = {  # what is wrong -> channels of the network, PIL's mode, size, message
    "small": (1, "L", (4, 4), r"x.png is too small \(4x4 pixels\)"),
    "large": (1, "L", (9, 9), "x.png has 9x9 pixels, but .* 8x8"),
    "oblong": (1, "L", (9, 8), "x.png has 9x8 pixels, but .* 8x8"),
    "colour": (1, "RGB", (8, 8), "x.png has pixels of kind 'RGB', but .* grey"),
    "grey": (3, "L", (8, 8), "x.png is greyscale"),
}


@pytest.mark.parametrize("channels, mode, size, message", FILES.values(), ids=FILES)
@pytest.mark.parametrize("task", ["inpaint", "restore"])
def test_images_that_do_not_fit_are_named(task, channels, mode, size, message, tmp_path):
    Image.new(mode, size).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"eval.images.*{message}"):
        check(task, data={"num_channels": channels}, images=str(tmp_path))


def test_damaged_and_missing_images_are_named(tmp_path):
    with pytest.raises(ValueError, match="eval.images=.*no folder|holds no image"):
        check("inpaint", images=str(tmp_path))
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/x.png cannot be decoded")):
        check("inpaint", images=str(tmp_path))


def test_images_of_the_user_need_no_data_set(tmp_path):
    folder = save_images(tmp_path / "mine", np.zeros((2, SIZE, SIZE, 1), np.uint8))
    check("inpaint", data={"dataset": "image_folder", "dir": "nowhere"}, images=folder)


# Measurements of the user's own


def test_own_measurements_have_no_truth(tmp_path):
    """Two small pictures for super-resolution; results have their names."""
    small = np.random.default_rng(2).integers(60, 200, (2, 4, 4), dtype=np.uint8)
    for name, pixels in zip(("b", "a"), small, strict=True):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    fields = {"measurements": str(tmp_path / "in"), "operator_factor": 2}
    report, arrays = run("restore", tmp_path, **fields)
    assert report["num_images"] == 2 and report["images"] == fields["measurements"]
    assert "samples" not in report and "measurement" not in report and report["residual"] >= 0
    assert arrays["names"].tolist() == ["a.png", "b.png"] and "originals" not in arrays
    np.testing.assert_allclose(arrays["measurements"][..., 0], small[::-1] / 255, atol=1e-6)
    for row, name in enumerate("ab"):
        with Image.open(tmp_path / "restore" / f"{name}_0.png") as image:
            np.testing.assert_array_equal(np.asarray(image), arrays["samples"][row, 0, ..., 0])
    Image.new("L", (5, 4)).save(tmp_path / "in" / "c.png")
    with pytest.raises(ValueError, match="measurements: .*c.png has 5x4 pixels, but .* of 4x4"):
        check("restore", **fields)
    with pytest.raises(ValueError, match="'random_projection' measures arrays of shape .*no pict"):
        check("restore", **fields | {"operator": "random_projection"})


def test_each_picture_has_a_hole_of_its_own(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE), dtype=np.uint8)
    alpha = np.full((2, SIZE, SIZE), 255, np.uint8)
    alpha[0, :4], alpha[1, :, 5:] = 0, 0
    for k in range(2):
        picture = Image.fromarray(np.stack([pixels[k], alpha[k]], -1))
        picture.save(tmp_path / f"{k}.png")
    report, arrays = run("inpaint", tmp_path, measurements=str(tmp_path), known_likelihood="")
    np.testing.assert_array_equal(arrays["masks"][..., 0], alpha / 255)
    known = np.broadcast_to(alpha[:, None, ..., None] == 255, arrays["samples"].shape)
    truth = np.broadcast_to(pixels[:, None, ..., None], known.shape)
    np.testing.assert_array_equal(arrays["samples"][known], truth[known])
    assert report["known_deviation"] == 0
    assert report["hidden_fraction"] == pytest.approx(1 - alpha.mean() / 255)


def test_masks_come_from_a_folder(tmp_path):
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    for name, top in (("a", 2), ("b", 5)):
        Image.new("L", (SIZE, SIZE), 99).save(tmp_path / "in" / f"{name}.png")
        mask = np.full((SIZE, SIZE), 255, np.uint8)
        mask[:top] = 0
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.bmp")
    fields = {"measurements": str(tmp_path / "in"), "mask": str(tmp_path / "masks")}
    y, names = Inpainting(experiment_of(**fields)).read()
    assert names == ["a.png", "b.png"]
    assert (1 - y[..., -1]).sum((1, 2)).tolist() == [2 * SIZE, 5 * SIZE]
    (tmp_path / "masks" / "b.bmp").unlink()
    with pytest.raises(ValueError, match="holds no mask for b.png; give it the name b.png"):
        check("inpaint", **fields)
    with pytest.raises(ValueError, match="is a folder of masks, which belong to the pictures"):
        check("inpaint", mask=str(tmp_path / "masks"))


def test_grey_pictures_are_colorized(tmp_path):
    grey = np.random.default_rng(4).integers(60, 200, (SIZE, SIZE), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "old.png")
    fields = {"measurements": str(tmp_path / "old.png"), "known_likelihood": ""}
    report, arrays = run("colorize", tmp_path, data=COLOR, **fields)
    assert report["num_images"] == 1 and (tmp_path / "colorize" / "old_0.png").exists()
    np.testing.assert_allclose(arrays["measurements"][0, ..., 0], grey / 255, atol=1e-6)
