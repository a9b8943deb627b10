"""Time series: processes with known parameters, tables of users, completion, and whole runs."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import golden
import runs
from oracles import correlated_score
from scorax import experiment, run_lib, sampling
from scorax.conditioning.masks import SERIES_MASKS, get_series_mask
from scorax.data_sources import ou, series, sines
from scorax.data_sources.source import Arrays
from scorax.datasets import get_dataset, get_source, get_statistics
from scorax.evaluators.series_problems import SeriesInpainting
from scorax.metrics.recurrent import discriminative_score, predictive_score
from scorax.metrics.series import autocorrelation, crps, fit_ou
from scorax.utils.data_range import get_data_inverse_scaler, log_scale
from scorax.utils.embeddings import get_embedding
from scorax.utils.shapes import model_shape
from simulation import simulate
from slow import but_slow

RNG = np.random.default_rng(0)
OU = [case for case in golden.cases("time_series_images") if case["kind"] == "ou"]


# Ornstein-Uhlenbeck processes


@pytest.mark.parametrize("case", OU, ids=[case["key"] for case in OU])
def test_golden_paths_and_fits(case):
    z, key = golden.load("time_series_images"), case["key"]
    numbers = case["theta"], case["mu"], case["sigma"]
    paths = ou.simulate(z[case["noise"]], *numbers, case["dt"], case["x0"])
    np.testing.assert_allclose(paths, z[f"{key}/paths_f64"], rtol=1e-12)
    np.testing.assert_allclose(fit_ou(paths, case["dt"]), z[f"{key}/mle_f64"], rtol=1e-8)
    found = ou.transition(case["theta"], case["sigma"], case["dt"])
    expected = case["transition_coefficient"], case["transition_std"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_fit_finds_the_parameters_of_long_paths():
    paths = ou.simulate(RNG.standard_normal((4, 200_000)), 2.0, 0.7, 0.3, dt=0.1)
    fits = fit_ou(paths, 0.1)
    np.testing.assert_allclose(fits, np.tile([2.0, 0.7, 0.3], (4, 1)), rtol=0.03)


def test_a_fit_of_a_straight_line_stays_in_its_range():
    fits = fit_ou(np.stack([np.arange(20.0), np.full(20, 3.0), np.tile([0.0, 1.0], 10)]), 1.0)
    assert np.isfinite(fits).all() and (fits[:, [0, 2]] >= 1e-5).all()


def test_paths_are_positive_and_seeded():
    train, again, test = ou.load("train", 30), ou.load("train", 30), ou.load("test", 30)
    assert (len(train), len(test)) == (10_000, 1_000)
    assert train.examples.shape == (10_000, 30, 1) and (train.examples > 0).all()
    np.testing.assert_array_equal(train.examples, again.examples)
    assert train.content() == again.content() != test.content()
    # From X_0 = 1 the mean after time T is mu + (1 - mu) E exp(-theta T) = 1 for E mu = 1.
    assert train.examples[:, 0].min() == train.examples[:, 0].max() == 1
    assert train.examples[:, -1].mean() == pytest.approx(1, abs=0.01)


def test_sines_lie_between_0_and_1():
    x = sines.load("train", 24, 5).examples
    assert x.shape == (10_000, 24, 5) and x.min() >= 0.5 and x.max() <= 1
    second = np.diff(np.arcsin(np.clip(2 * x[0, :, 0] - 1, -1, 1))[:6])
    np.testing.assert_allclose(second, second[0], rtol=1e-3)


def test_autocorrelation_of_an_autoregression():
    x = np.zeros((50, 4000, 1))
    for i in range(1, 4000):
        x[:, i] = 0.8 * x[:, i - 1] + RNG.standard_normal((50, 1))
    found = autocorrelation(x[:, 100:], 5)[:, 0]
    np.testing.assert_allclose(found, 0.8 ** np.arange(6), atol=0.02)


def test_crps_of_a_normal_distribution():
    """Its closed form at y for N(0, 1) is y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    samples = RNG.standard_normal((4000, 1)).repeat(3, 1)
    y = np.array([0.0, 1.0, -2.0])
    expected = [0.23369, 0.60244, 1.45279]
    np.testing.assert_allclose(crps(samples, y), expected, atol=0.03)
    few = np.stack([crps(RNG.standard_normal((3, 1)), y[:1]) for _ in range(3000)])
    assert few.mean() == pytest.approx(expected[0], abs=0.03), "small ensembles are not punished"


@pytest.mark.slow
def test_scores_tell_series_apart():
    real = ou.load("test", 20).examples[:400]
    same, noise = ou.load("train", 20).examples[:400], RNG.uniform(0.5, 1.5, (400, 20, 1))
    noise = noise.astype(np.float32)
    assert (
        discriminative_score(real, same, 600) < 0.15 < 0.4 < discriminative_score(real, noise, 600)
    )
    assert predictive_score(real, same, 600) < 0.7 * predictive_score(real, noise, 600)


# Tables of users


def write(path, text):
    path.write_text(text)
    return str(path)


def table(path, rows=40, columns=("a", "b"), times=None, **changes):
    frame = pandas.DataFrame({c: np.sin(np.arange(rows) * (k + 1)) for k, c in enumerate(columns)})
    for name, (row, value) in changes.items():
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
    if times is not None:
        frame.insert(0, "time", times)
    frame.to_csv(path, index=False)
    return str(path)


def open_series(path, split="train", length=8, stride=1, channels=2, columns=()):
    return series.load(path, split, length, stride, channels, columns)


def test_windows_of_a_table_and_its_last_tenth(tmp_path):
    path = table(tmp_path / "a.csv", 100, times=range(100))
    train, test = open_series(path, stride=3), open_series(path, "test")
    assert train.columns == ("a", "b") and train.held_out and test.held_out
    assert len(train) == (90 - 8) // 3 + 1 and len(test) == 3
    expected = np.sin(np.arange(100)[:, None] * [1, 2]).astype(np.float32)
    np.testing.assert_allclose(train[2]["image"], expected[6:14], rtol=1e-6)
    np.testing.assert_allclose(test[0]["image"], expected[90:98], rtol=1e-6)
    assert not open_series(table(tmp_path / "b.csv", 12)).held_out


def test_other_forms_of_a_table(tmp_path):
    frame = pandas.read_csv(table(tmp_path / "a.csv"))
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "bare.csv", index=False, header=False)
    x = frame.to_numpy(np.float32)
    np.savez(tmp_path / "a.npz", series=x)
    for name in ("a.csv", "a.parquet", "semicolon.csv", "bare.csv", "a.npz"):
        np.testing.assert_allclose(open_series(str(tmp_path / name))[1]["image"], x[1:9], rtol=1e-6)
    only = open_series(str(tmp_path / "a.csv"), channels=1, columns=("b",))
    np.testing.assert_allclose(only[0]["image"], x[:8, 1:], rtol=1e-6)
    np.savez(tmp_path / "many.npz", series=np.tile(x, (20, 1, 1)))
    assert len(open_series(str(tmp_path / "many.npz"))) == 18 * 33
    (tmp_path / "split").mkdir()
    for split in ("train", "test"):
        frame.to_csv(tmp_path / "split" / f"{split}.csv", index=False)
    assert len(open_series(str(tmp_path / "split"), "test")) == 33


def test_dates_of_months_and_of_business_are_regular(tmp_path):
    for freq in ("MS", "B", "h"):
        times = pandas.date_range("2020-01-01", periods=40, freq=freq)
        assert len(open_series(table(tmp_path / "a.csv", times=times))) == 25


BAD = {
    "gap": (
        {"a": (3, np.nan), "b": (5, np.nan)},
        None,
        r"lines 5, 7 of .*: no number of column a, b; training needs series without gaps",
    ),
    "text": ({"b": (6, "n/k")}, None, r"column 'b', line 8 of .*: 'n/k' is no number; correct it"),
    "infinite": ({"b": (6, "inf")}, None, "line 8 of .*: infinite; correct or remove it"),
    "irregular": (
        {},
        [*range(20), *range(21, 41)],
        r"column 'time', line 22 of .*: the step from 19 to 21 is not the usual one",
    ),
    "no date": (
        {},
        [f"2020-01-{d:02d}" for d in range(1, 20)] + [None] + ["2020-02-01"] * 20,
        r"column 'time', line 21 of .*: no time stamp",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables_are_told_with_their_lines(kind, tmp_path):
    changes, times, message = BAD[kind]
    with pytest.raises(ValueError, match=message) as error:
        open_series(table(tmp_path / "bad.csv", times=times, **changes))
    assert "\n" not in str(error.value)


def test_what_else_is_wrong_with_series_is_told(tmp_path):
    path = table(tmp_path / "a.csv")
    for arguments, message in [
        ({"length": 50}, "has 40 points in time, fewer than a window of data.length=50"),
        ({"channels": 3}, r"has 2 channels \(a, b\), but data.num_channels=3; set --config"),
        ({"columns": ("c",)}, "data.columns names 'c', but .* has the columns a, b"),
        ({"stride": 0}, "data.length=8 and data.stride=0 must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_series(path, **arguments)
    np.savez(
        tmp_path / "nan.npz", series=np.where(np.arange(60)[None] == 7, np.nan, 0.5)[..., None]
    )
    with pytest.raises(ValueError, match="row 7 of .*nan.npz: no number; training needs"):
        open_series(str(tmp_path / "nan.npz"), channels=1)
    for text, message in [("", "cannot be read as a table"), ("a,b\n", "holds no numbers")]:
        with pytest.raises(ValueError, match=message):
            open_series(write(tmp_path / "x.csv", text))


def config_of(path, name="edm/series", **data):
    config = runs.get_config(name).copy_and_resolve_references()
    config.data.update({"dataset": "series", "dir": str(path), "num_channels": 2} | data)
    return config


def test_a_constant_channel_is_told(tmp_path):
    frame = pandas.DataFrame({"a": np.arange(60.0), "b": np.full(60, 0.1)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    config = config_of(tmp_path / "a.csv")
    with pytest.raises(
        ValueError, match="channel 1 .*constant, 0.1, and there is nothing to learn"
    ):
        get_statistics(config, get_source(config))


def test_standardised_data_have_the_spread_of_the_model(tmp_path):
    config = config_of(table(tmp_path / "a.csv", 200))
    config.data.mean, config.data.scale = get_statistics(config, get_source(config))
    x = get_dataset(config, batch_size=256)[0]["image"]
    assert x.shape == (256, 8, 8, 2)
    x = x[:, :, :7]  # the last column is padding
    np.testing.assert_allclose(x.std((0, 1, 2)), config.model.sigma_data, rtol=0.1)
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=0.1)


def test_images_are_no_series_and_series_no_images(tmp_path):
    with pytest.raises(ValueError, match="data.kind='series', but the examples of .* are images"):
        get_source(runs.get_config("edm/ou", data={"dataset": "digits"}))
    with pytest.raises(ValueError, match="are series; take a config made for series, such as"):
        get_source(runs.get_config("ve/mnist", data={"dataset": "ou", "length": 24}))
    for task in ("fd", "encode", "denoise", "restore"):
        config = runs.get_config("edm/ou", eval={"tasks": (task,)})
        with pytest.raises(
            ValueError, match=f"the task '{task}' .* takes images, but data.kind='se"
        ):
            run_lib._build(config)


# Masks


@pytest.mark.parametrize("name", SERIES_MASKS)
def test_masks_hide_what_is_asked(name):
    mask = get_series_mask(name, 20, 3, 5, only=(0, 2), seed=1)
    assert mask.shape == (20, 3) and (mask[:, 1] == 1).all()
    hidden = 20 if name == "channels" else 5
    assert ((1 - mask[:, [0, 2]]).sum(0) == hidden).all()
    if name == "last":
        assert (mask[-5:, 0] == 0).all()
    if name == "random":
        assert (mask[:, 0] != mask[:, 2]).any()


def test_impossible_masks_are_told():
    for arguments, message in [
        (("box", 20, 3), r"mask of series \(eval.mask\) 'box'; choose from: last, block"),
        (("last", 20, 3, 21), "eval.mask_points=21 must lie between 1 and the 20 points"),
        (("last", 20, 3, 5, (3,)), r"there is no channel 3; choose from 0 ... 2"),
        (("channels", 20, 3), "hides everything; leave a point, or a channel"),
    ]:
        with pytest.raises(ValueError, match=message):
            get_series_mask(*arguments)


# Gaussian series, whose score is known through the embedding

LENGTH, MEAN, SCALE = 24, 1.0, 0.6
DECAY, SPREAD = 0.9, 0.3  # of the autoregression


def gaussian_series():
    """Mean (L,) and covariance (L, L) of an autoregression around a wave."""
    i = np.arange(LENGTH)
    return MEAN + 0.3 * np.sin(i / 5), SPREAD**2 * DECAY ** np.abs(i[:, None] - i)


def exact_score(config, sde):
    """The score of the embedded series: a degenerate Gaussian in the space of images."""
    mean, covariance = gaussian_series()
    unit = np.eye(LENGTH, dtype=np.float32)[..., None]
    embed = get_embedding(config).to_image(unit).reshape(LENGTH, -1).T.astype(np.float64)
    score = correlated_score(
        sde, embed @ ((mean - MEAN) / SCALE), embed @ covariance @ embed.T / SCALE**2
    )
    return lambda x, t: score(x.reshape(len(x), -1), t).reshape(x.shape)


def embedded(name, **sections):
    config = runs.get_config(name, **sections)
    config.data.mean, config.data.scale = (MEAN,), (SCALE,)
    return experiment.assemble(config)


@pytest.mark.parametrize(
    "name, steps", but_slow([("edm/ou", 40), ("vp/ou", 300)], ("edm/ou", 40).__eq__)
)
def test_samples_of_the_exact_score_have_the_moments_of_the_series(name, steps):
    built = embedded(name, sampling={"steps": steps})
    config, sde, n = built.config, built.sde, 4000
    sampler, score = sampling.get_sampling_fn(config, sde), exact_score(config, sde)
    x = simulate(lambda rng: sampler(rng, score, (n, *model_shape(config)))[0])
    x = np.asarray(get_data_inverse_scaler(config)(x))[..., 0]
    mean, covariance = gaussian_series()
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * SPREAD / np.sqrt(n))
    found = np.cov(x.T)
    # The standard error of a covariance is at most sqrt(2 / n) of the variance.
    np.testing.assert_allclose(found, covariance, atol=4 * SPREAD**2 * np.sqrt(2 / n) + 1e-3)


@pytest.mark.parametrize("mask", but_slow(["last", "random", "block"], "last".__eq__))
def test_completed_series_have_the_smoothers_mean_and_spread(mask):
    sections = {"eval": {"mask": mask, "mask_points": 8, "likelihood_iterations": 10}}
    built = embedded("edm/ou", sampling={"steps": 40}, **sections)
    problem, score, n = SeriesInpainting(built), exact_score(built.config, built.sde), 2000
    mean, covariance = gaussian_series()
    known = problem.mask[:, 0] == 1
    truth = mean + np.linalg.cholesky(covariance) @ RNG.standard_normal(LENGTH)
    y = problem.measure(jax.random.key(0), jnp.asarray(truth[None, :, None], jnp.float32))
    y, sampler = np.repeat(y, n, 0), problem.get_sampler()
    x = simulate(lambda rng: sampler(rng, score, (n, *model_shape(built.config)), y)[0])
    x = np.asarray(problem.to_data(x))
    assert problem.misfits(y, x).max() < 1e-5
    # Conditioning a Gaussian, which for an autoregression is what a Kalman smoother computes.
    inverse = np.linalg.inv(covariance[np.ix_(known, known)])
    gain = covariance[np.ix_(~known, known)] @ inverse
    expected = mean[~known] + gain @ (truth - mean)[known]
    rest = covariance[np.ix_(~known, ~known)] - gain @ covariance[np.ix_(known, ~known)]
    spread, x = np.sqrt(np.diag(rest)), x[:, ~known, 0]
    assert np.abs((x.mean(0) - expected) / spread).max() < 0.12  # 5 standard errors
    np.testing.assert_allclose(x.std(0) / spread, 1, atol=0.08)


# Whole runs


@pytest.mark.slow
def test_series_from_a_table_to_a_completed_table(tmp_path, cache):
    """Trains on a CSV, compares, measures the density, and fills the gaps of another CSV."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal((400, 2)), 0) * 0.1 + 50
    times = pandas.date_range("2020-01-01", periods=400, freq="D")
    frame = pandas.DataFrame({"date": times, "u": x[:, 0], "v": x[:, 1]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    part = frame.iloc[:20].copy()  # shorter than a window: its end is forecast
    part.loc[5:8, "u"] = np.nan
    part.to_csv(tmp_path / "gaps.csv", index=False)
    fields = {
        "data__dataset": "series",
        "data__dir": tmp_path / "mine.csv",
        "data__num_channels": 2,
        "eval__samples_per_image": 8,
    }
    command = lambda *a, **k: runs.command(tmp_path / "run", *a, **fields, **k)  # noqa: E731
    env = runs.environment(cache)
    output = runs.finish(runs.start(command(config="edm/series"), env))
    assert "train: 337 series, no classes" in output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["mean"][0] > 40
    evaluation = {
        "eval__tasks": ("series", "bpd", "inpaint", "loss"),
        "eval__measurements": tmp_path / "gaps.csv",
        "eval__bpd_rtol": 1e-2,
        "eval__bpd_atol": 1e-2,
        "eval__num_examples": 4,
    }
    runs.finish(runs.start(command("eval", "edm/series", **evaluation), env))
    folder = tmp_path / "run" / "eval" / "step_8"
    report = json.loads((folder / "report.json").read_text())
    assert "images in which series are embedded" in report["bpd"]["of"]
    assert len(report["series"]["ou"]) == 2 and 0 <= report["series"]["discriminative"] <= 0.5
    samples = np.load(folder / "samples.npz")["samples"]
    assert samples.shape == (12, 24, 2) and samples.dtype == np.float32
    assert 30 < samples.mean() < 70, "samples are in units of the data"
    with open(folder / "inpaint.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 * 2 and rows[0]["time"].startswith("2020-01-01")
    by_place = {(row["channel"], i // 2): row for i, row in enumerate(rows)}
    gap, known = by_place["u", 6], by_place["v", 6]
    assert gap["known"] == "0" and float(gap["q05"]) < float(gap["q95"])
    assert known["known"] == "1" and float(known["q50"]) == pytest.approx(x[6, 1], abs=1e-3)
    for name in ("samples.png", "process.gif", "series.png", "inpaint.png"):
        assert (folder / name).stat().st_size > 1000


def test_measurements_without_a_gap_are_refused(tmp_path):
    path = table(tmp_path / "a.csv", 24)
    config = config_of("")
    config.eval.measurements = path
    problem = SeriesInpainting(experiment.assemble(config))
    with pytest.raises(ValueError, match="a.csv has no gap to fill; leave numbers out"):
        problem.read()
    config.eval.measurements = table(tmp_path / "b.csv", 30)
    with pytest.raises(
        ValueError, match="has 30 points in time, but the network makes series of 24"
    ):
        SeriesInpainting(experiment.assemble(config)).read()
    config.eval.measurements = str(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="none.csv' is no table, and no folder of tables"):
        SeriesInpainting(experiment.assemble(config)).read()


def test_fourier_images_have_a_scale_for_each_entry():
    config = runs.get_config("edm/ou", data={"embedding": "stft", "n_fft": 8, "hop": 4})
    source = Arrays("series", RNG.standard_normal((50, 24, 1)))
    config.data.mean, config.data.scale = get_statistics(config, source)
    assert len(config.data.mean) == 5 * 7 * 2
    x = get_dataset(config, batch_size=48, source=source, shuffle=False)[0]["image"]
    assert x.shape == (48, 8, 8, 2) and x.min() >= -1.001 and x.max() <= 1.001
    assert np.isfinite(log_scale(config))
