"""Dynamical systems: published values, and what a chain must satisfy."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from golden import assert_golden, cases, load, parse
from scorax.data_sources.dynamics import (
    CHAINS,
    DampedSpring,
    Lorenz63,
    Lorenz96,
    LotkaVolterra,
    get_chain,
)
from scorax.data_sources.trajectories import Windows, load_chain, load_files

LORENZ = pytest.mark.parametrize(
    "case", [c for c in cases("lorenz63") if c["kind"] == "lorenz63"], ids=lambda c: c["mean"]
)


def follow(chain, x, n):
    """The n states after x without noise, time first."""
    path = []
    for _ in range(n):
        x = chain.transition(x)
        path.append(x)
    return jnp.stack(path)


@LORENZ
def test_golden_lorenz63(case, monkeypatch):
    z = load("lorenz63")
    names = ("sigma", "rho", "beta", "dt")
    chain = Lorenz63(rk4_steps=case["rk4_substeps"], **{k: case[k] for k in names})
    assert chain.std == pytest.approx(case["transition_std"])
    x, x_next = jnp.asarray(z["in/x"]), jnp.asarray(z["in/x_next"])
    if case["drift"]:
        assert_golden(chain.drift(x), z, case["drift"])
    assert_golden(chain.transition(x), z, case["mean"])
    assert_golden(chain.log_prob(x, x_next), z, case["log_prob"])
    assert_golden(follow(chain, x, 8), z, case["traj"])
    noises = list(z["in/noise"])
    monkeypatch.setattr(jax.random, "normal", lambda *args: jnp.asarray(noises.pop(0)))
    path, state = [], x
    for _ in range(8):
        state = chain.step(jax.random.key(0), state)
        path.append(state)
    assert_golden(jnp.stack(path), z, case["noisy_traj"])


def test_golden_density_of_a_path_and_preprocessing():
    z, settings = load("lorenz63"), parse(load("lorenz63"), "config")
    chain, path = Lorenz63(), jnp.asarray(z["in/path"])
    assert_golden(chain.log_prior(path), z, "out/path_log_prior")
    assert list(chain.mean) == settings["preprocess_mean"]
    assert list(chain.scale) == settings["preprocess_std"]
    np.testing.assert_array_equal(chain.first_mean, settings["prior_mean"])
    np.testing.assert_array_equal(chain.first_covariance, settings["prior_cov"])
    scaled = (z["in/path"] - np.float32(chain.mean)) / np.float32(chain.scale)
    assert_golden(scaled, z, "out/path_preprocessed")


def test_golden_other_systems():
    z = load("lorenz63")
    settings = parse(z, "config")
    s = settings["lorenz96"]
    chain = Lorenz96(dt=s["dt"], n=s["n"], forcing=s["F"])
    assert_golden(follow(chain, jnp.asarray(z["in/x_lorenz96"]), 5), z, "out/lorenz96_n8_F8_dt0.01")
    chain = LotkaVolterra(**settings["lotka_volterra"])
    lotka = follow(chain, jnp.asarray(z["in/x_lotka"]), 5)
    assert_golden(lotka, z, "out/lotka_volterra_log_dt0.05")


@pytest.mark.parametrize("name", list(CHAINS))
def test_simulated_steps_have_the_stated_mean_and_spread(name):
    chain, n = get_chain(name), 4000
    x = jnp.tile(chain.first(jax.random.key(0), 1), (n, 1))
    path = chain.simulate(jax.random.key(1), x, 2)
    assert path.shape == (n, 2, chain.dimension)
    error = np.asarray(path[:, 0] - chain.transition(x))
    limit = 4.5 * chain.std / np.sqrt(n) + 1e-5 * np.abs(path).max()
    assert (np.abs(error.mean(0)) < limit).all()
    np.testing.assert_allclose(error.std(0), chain.std, rtol=4.5 / np.sqrt(2 * n), atol=1e-5)
    if chain.std.all():
        expected = norm.logpdf(error, scale=chain.std).sum(1)
        np.testing.assert_allclose(chain.log_prob(x, path[:, 0]), expected, atol=2e-2)


def test_more_runge_kutta_steps_converge_with_fourth_order():
    x = Lorenz63().first(jax.random.key(0), 50)
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(x, np.float64))
        ends = [Lorenz63(rk4_steps=k).transition(x) for k in (1, 2, 32)]
        coarse, fine = (float(jnp.abs(end - ends[-1]).max()) for end in ends[:2])
    assert 10 < coarse / fine < 24


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: get_chain("lorenz"), "unknown system 'lorenz'; choose from: lorenz63"),
        (lambda: Lorenz63(dt=0.0), "dt=0.0 must be positive"),
        (lambda: Lorenz63(rk4_steps=0), "rk4_steps=0"),
        (lambda: DampedSpring(dt=-1.0), "dt=-1.0"),
    ],
)
def test_bad_systems_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Windows


def test_windows_cover_every_trajectory():
    x = np.arange(3 * 6 * 2, dtype=np.float32).reshape(3, 6, 2)
    source = Windows("series", x, 4)
    assert len(source) == 3 * 3
    found = {source[i]["image"].tobytes() for i in range(len(source))}
    assert found == {x[n, s : s + 4].tobytes() for n in range(3) for s in range(3)}
    np.testing.assert_array_equal(source[1]["image"], x[1, :4])  # neighbours are no near copies
    with pytest.raises(ValueError, match=r"data.length=7 .* trajectories of 6"):
        Windows("series", x, 7)


@pytest.mark.slow
def test_chains_are_stationary_and_split():
    train, test = (load_chain("lorenz63", split, 1024) for split in ("train", "test"))
    assert len(train) == 819 and len(test) == 103
    x = train.trajectories
    for half in (x[:, :512], x[:, 512:]):
        np.testing.assert_allclose(half.mean((0, 1)), [0, 0, 23.6], atol=0.6)
        np.testing.assert_allclose(half.std((0, 1)), [8, 9, 8.6], rtol=0.06)
    assert not np.array_equal(x[:103], test.trajectories)


def test_fields_are_read_as_the_published_files_hold_them(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 5, 2, 4, 3)).astype(np.float32)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["x"] = x
    source = load_files(str(tmp_path), "train", 3, "fields")
    assert len(source) == 2 * 3 and source.kind == "fields"
    np.testing.assert_array_equal(source[3]["image"], x[1, 1:4].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "name, array, message",
    [
        ("test.h5", np.zeros((2, 5, 2, 4, 4)), r"train.h5 does not exist; .*make_trajectories"),
        (
            "train.h5",
            np.zeros((2, 5, 3)),
            r"no data set 'x' of shape \(N, L, C, H, W\); .*\(2, 5, 3\)",
        ),
        ("train.h5", None, "no readable HDF5 file"),
    ],
)
def test_bad_files_are_told(name, array, message, tmp_path):
    if array is None:
        (tmp_path / name).write_bytes(b"no HDF5")
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = array
    with pytest.raises(ValueError, match=message):
        load_files(str(tmp_path), "train", 3, "fields")
