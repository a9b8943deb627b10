"""Series as images: published values, exact round trips, and what cannot be inverted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
import runs
from scorax import experiment
from scorax.utils.data_range import get_data_inverse_scaler, get_data_scaler
from scorax.utils.embeddings import DelayEmbedding, STFTEmbedding, get_padding, min_max

CASES = golden.cases("time_series_images")
KEYS = [f"{case['kind']}-{case['key'].split('/')[-1]}" for case in CASES]
RNG = np.random.default_rng(0)


def of_kind(*kinds):
    chosen = [(case, name) for case, name in zip(CASES, KEYS, strict=True) if case["kind"] in kinds]
    return pytest.mark.parametrize("case", [c for c, _ in chosen], ids=[n for _, n in chosen])


@of_kind("delay", "delay_wide")
def test_golden_delay_embedding(case):
    z, key = golden.load("time_series_images"), case["key"]
    series, embedding = z[case["series"]], DelayEmbedding(case["L"], case["m"], case["n"])
    images = embedding.to_image(series)
    np.testing.assert_array_equal(images, golden.nhwc(z[f"{key}/image_unpadded"]))
    np.testing.assert_array_equal(embedding.from_image(images, "last"), z[f"{key}/series_back"])
    if case["kind"] == "delay":  # padded to a square; the wide one would need rows, too
        square = DelayEmbedding(case["L"], case["m"], case["n"], case["side"])
        np.testing.assert_array_equal(square.to_image(series), golden.nhwc(z[f"{key}/image"]))
        if case["has_mask1"]:
            padded = golden.nhwc(z[f"{key}/image_mask1"])
            np.testing.assert_array_equal(square.to_image(series, 1.0), padded)
        generated = golden.nhwc(z[f"{case['series']}_image"])
        last = square.from_image(generated, "last")
        np.testing.assert_array_equal(last, z[f"{key}/series_from_image"])


@of_kind("stft")
def test_golden_fourier_transform(case):
    z, key, n = golden.load("time_series_images"), case["key"], case["features"]
    embedding = STFTEmbedding(case["L"], case["n_fft"], case["hop"])
    images = embedding.to_image(z[case["series"]])
    for part, found in (("real", images[..., :n]), ("imag", images[..., n:])):
        np.testing.assert_allclose(found, golden.nhwc(z[f"{key}/{part}"]), rtol=1e-4, atol=1e-5)
    mean, scale = min_max(embedding.to_image(z[case["train"]]))
    span = np.concatenate([z[f"{key}/max_{p}"] - z[f"{key}/min_{p}"] for p in ("real", "imag")])
    varies = np.moveaxis(span, 0, -1) > 1e-5  # elsewhere the published images show rounding errors
    scaled, published = (images - mean) / scale, golden.nhwc(z[f"{key}/image"])
    np.testing.assert_allclose(scaled[:, varies], published[:, varies], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scaled[:, ~varies], -1)
    generated = golden.nhwc(z[case["image"]]) * scale + mean
    for x in (generated, jnp.asarray(generated)):
        np.testing.assert_allclose(
            embedding.from_image(x), z[f"{key}/series_from_image"], rtol=1e-4, atol=2e-5
        )


LENGTHS = [  # (L, m, n) of systems that are published, and degenerate ones
    *((253, 8, 32), (252, 8, 32), (24, 3, 8), (17420, 136, 144), (10920, 86, 128), (96, 3, 32)),
    *((64, 32, 32), (65, 32, 32), (300, 8, 32), (5, 3, 8), (1, 1, 1), (7, 1, 1), (9, 2, 2)),
]


@pytest.mark.parametrize("length, delay, rows", LENGTHS)
def test_round_trip_is_exact(length, delay, rows):
    embedding = DelayEmbedding(length, delay, rows)
    x = RNG.standard_normal((2, length, 3), np.float32)
    images = embedding.to_image(x)
    for overlap in ("mean", "last"):
        back = embedding.from_image(images, overlap)
        np.testing.assert_allclose(back, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(images[:, ~embedding.is_data[..., 0]], 0)
    on_device = jax.jit(embedding.to_image)(x)
    np.testing.assert_array_equal(on_device, images)


def test_entries_of_a_point_are_averaged():
    embedding = DelayEmbedding(5, 1, 3)
    images = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    # Point 2 stands at (2, 0), (1, 1) and (0, 2), which hold 6, 4 and 2.
    np.testing.assert_allclose(embedding.from_image(images)[0, :, 0], [0, 2, 4, 6, 8])
    images[0, 2, 0, 0] = 9
    np.testing.assert_allclose(embedding.from_image(images)[0, 2, 0], 5)
    assert embedding.from_image(images, "last")[0, 2, 0] == 2


IMPOSSIBLE = [
    (lambda: DelayEmbedding(40, 9, 7), "data.delay=9 is larger than the 7 rows of an image, so"),
    (lambda: DelayEmbedding(40, 0, 7), "needs positive numbers"),
    (lambda: DelayEmbedding(300, 8, 32, 32), "take 35 columns of 32 rows, more than 32; set data"),
    (lambda: STFTEmbedding(24, 8, 9), "data.hop=9 leaves points that no window of 8 points covers"),
    (lambda: STFTEmbedding(24, 50, 3), "data.n_fft=50 .* is impossible; .* at most 47"),
    (lambda: STFTEmbedding(24, 8, 3, (4, 9)), "take 5 frequencies and 9 times; set data.image"),
    (lambda: DelayEmbedding(5, 1, 3).to_image(np.zeros((1, 6, 1))), r"\(1, 6, 1\) do not fit"),
    (lambda: DelayEmbedding(5, 1, 3).from_image(np.zeros((3, 3, 1)), "first"), "overlap 'first'"),
]


@pytest.mark.parametrize("build, message", IMPOSSIBLE)
def test_what_cannot_be_embedded_is_said(build, message):
    with pytest.raises(ValueError, match=message):
        build()


CONFIGS = {
    "delay": {"length": 24, "image_size": 8},
    "padded": {"length": 20, "image_size": (8, 12)},
    "stft": {"embedding": "stft", "n_fft": 8, "hop": 4, "image_size": (8, 8)},
    "plain": {"embedding": ""},
}


def config_of(kind, **data):
    name = "edm/ou" if kind != "plain" else "vp/points"
    config = runs.get_config(name).copy_and_resolve_references()
    with config.ignore_type():
        config.data.update(CONFIGS[kind] | data)
    if kind == "plain":
        config.data.update({"kind": "series", "length": 24, "num_channels": 1})
    return config


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_conversion_and_its_inverse(kind):
    config = config_of(kind)
    channels = 10 * 7 * 2 if kind == "stft" else 1
    with config.ignore_type():
        config.data.mean = tuple(RNG.standard_normal(5 * 7 * 2 if kind == "stft" else channels))
        config.data.scale = tuple(RNG.uniform(1, 2, len(config.data.mean)))
    x = RNG.standard_normal((3, config.data.length, 1), np.float32)
    to_model, to_data = get_data_scaler(config), get_data_inverse_scaler(config)
    np.testing.assert_allclose(to_data(to_model(x)), x, atol=2e-6)
    np.testing.assert_allclose(jax.jit(to_data)(jax.jit(to_model)(x)), x, atol=5e-6)
    padding = get_padding(config)
    if padding is not None:
        image = to_model(x)
        np.testing.assert_array_equal(np.where(padding, image, 0), 0)
        image = np.where(padding, 1e6, image)
        np.testing.assert_allclose(to_data(image), x, atol=2e-6)


def test_padding_has_no_part_in_loss_and_samples():
    """Whatever the network says about the padding, and whatever the noise there is."""
    config = config_of("padded")
    built = experiment.assemble(config)
    padding, sde = get_padding(config), built.sde
    assert padding.sum() > 8
    state = jax.jit(built.init_state)()
    params = jax.tree.map(
        lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), state.params
    )
    x = RNG.standard_normal((2, 8, 12, 1), np.float32)
    t = jnp.array([0.3, 0.6])
    score = built.score_fn(params, {})(jnp.asarray(x), t)
    sigma = sde.marginal_coeffs(t)[1][:, None, None, None]
    where = np.broadcast_to(padding, x.shape)
    np.testing.assert_allclose(score[where], (-x / sigma**2)[where], rtol=1e-5)
    batch = {
        "image": np.where(padding, 0, x),
        "index": np.arange(2, dtype=np.uint32),
        "label": np.zeros(2, np.int32),
    }
    loss, rng = built.loss_fn(False), jax.random.key(0)
    # A new network returns almost nothing, so that what reaches the loss is the error alone.
    of = lambda image: loss(rng, state.params, {}, batch | {"image": image})[0]  # noqa: E731
    value, grad = jax.value_and_grad(of)(batch["image"])
    assert np.abs(grad[where]).max() < 1e-5 * np.abs(grad[~where]).max()
    assert value == pytest.approx(float(of(np.where(padding, 5, x))), rel=1e-5)
