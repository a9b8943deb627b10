"""Kolmogorov flow: its solver, its fields, and the tool that makes trajectories."""

import json
import subprocess
import sys

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_golden, load, nhwc
from scorax.configs.kolmogorov.small import get_config
from scorax.data_sources.kolmogorov import KolmogorovFlow
from scorax.data_sources.trajectories import load_files
from scorax.datasets import get_dataset
from scorax.utils.fields import (
    coarsen,
    energy_spectrum,
    random_symmetry,
    upsample,
    vorticity,
)

CONFIG = "configs/kolmogorov/small.py"


# Reference values of operators on fields


def last(x):
    """Channels first, (..., C, H, W), to channels last."""
    return np.moveaxis(x, -3, -1)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("field, ratios", [("field0", (2, 4, 8)), ("field1", (2, 4))])
def test_golden_operators_on_fields(field, ratios, convert):
    z = load("lorenz63")
    x = convert(last(z[f"in/{field}"]))

    def check(found, key):
        assert_golden(nhwc(np.asarray(found)), z, f"out/{key}")

    for r in ratios:
        check(np.moveaxis(coarsen(x, r), -1, -3), f"coarsen_{field}_r{r}")
    for r in (2, 4):
        check(np.moveaxis(upsample(x[:1], r), -1, -3), f"upsample_{field}_r{r}")
    check(vorticity(x), f"vorticity_{field}")
    w = vorticity(coarsen(x, 2))
    check(w / (1 + abs(w)), f"saturated_coarse_vorticity_{field}")


def test_energy_spectrum_of_one_wave():
    """u = 3 sin(2 y): all energy, 9 / 4, at wavenumber 2."""
    y = 2 * np.pi * np.arange(16) / 16
    u = np.broadcast_to(3 * np.sin(2 * y), (16, 16))
    spectrum = energy_spectrum(np.stack([u, np.zeros_like(u)], -1))
    np.testing.assert_allclose(spectrum, np.eye(8)[1] * 9 / 4, atol=1e-12)


# The solver


def test_without_a_vortex_the_flow_is_the_laminar_one():
    """u = a (1 - e^{-r t}) sin(k y) with r = viscosity k^2 + drag and a = 1 / r, from rest."""
    flow = KolmogorovFlow(resolution=32, size=32, interval=0.5, viscosity=0.01, wavenumber=2)
    modes = jnp.zeros((1, 1, 32, 17), jnp.complex64)
    _, x = flow.advance(modes)
    rate = 0.01 * 4 + 0.1
    y = 2 * np.pi * np.arange(32) / 32
    expected = (1 - np.exp(-rate * 0.5)) / rate * np.sin(2 * y)
    np.testing.assert_allclose(x[0, ..., 0], np.tile(expected, (32, 1)), atol=2e-4)
    np.testing.assert_allclose(x[0, ..., 1], 0, atol=1e-5)


def test_vorticity_is_carried_along_by_the_velocity():
    """A large vortex carries a small one around; the other sign would carry it the other way."""
    dt, small = 0.01, 0.01  # so short that the force, from rest, hardly matters
    flow = KolmogorovFlow(resolution=32, size=32, interval=dt, viscosity=1e-4, drag=0.0)
    x = 2 * np.pi * np.arange(32) / 32
    y = x[None]
    x = x[:, None]
    w = np.cos(y) - small * np.cos(x) * np.cos(y)  # du/dy of u = sin(y), and a small vortex
    modes = jnp.fft.rfft2(jnp.asarray(w, jnp.float32))[None, None]
    velocity = np.asarray(flow.velocity(modes))[0]
    np.testing.assert_allclose(velocity[..., 0], np.tile(np.sin(y), (32, 1)), atol=0.6 * small)
    after, _ = flow.advance(modes)
    change = np.fft.irfft2(np.asarray(after)[0, 0]) - w
    change -= change.mean(0)  # what the force does
    # -u dw/dx of the small vortex, and its own velocity v = sin(x) cos(y) / 2: -v dw/dy.
    carried = -small * dt * np.sin(x) * np.cos(y) * (np.sin(y) - np.sin(y) / 2)
    np.testing.assert_allclose(change, carried, atol=0.2 * np.abs(carried).max())


@pytest.mark.slow
def test_double_resolution_gives_the_same_flow():
    """Where the flow is resolved, twice as many points change nothing but rounding."""
    coarse, fine = (
        KolmogorovFlow(resolution=n, size=32, interval=0.5, viscosity=0.03) for n in (64, 128)
    )
    modes = coarse.first(jax.random.split(jax.random.key(0)))
    for _ in range(3):  # viscosity damps what the coarse grid does not resolve
        modes, _ = coarse.advance(modes)
    wide = jnp.zeros((2, 1, 128, 65), modes.dtype)
    for rows in (slice(0, 32), slice(-31, None)):
        wide = wide.at[:, :, rows, :32].set(4 * modes[:, :, rows, :32])
    narrow = modes.at[:, :, 32].set(0).at[:, :, :, 32].set(0)
    for _ in range(2):
        narrow, _ = coarse.advance(narrow)
        wide, _ = fine.advance(wide)
    a, b = (np.asarray(flow.velocity(m)) for flow, m in ((coarse, narrow), (fine, wide)))
    np.testing.assert_allclose(a, b[:, ::2, ::2], atol=0.02 * np.abs(a).max())
    spectra = [energy_spectrum(x).mean(0)[:15] for x in (a, b)]
    np.testing.assert_allclose(*spectra, rtol=0.02)


def test_random_symmetries_commute_with_the_flow():
    """The flow of a changed state is the changed flow, for all kinds of changes."""
    flow = KolmogorovFlow(resolution=64, size=64)
    kx, ky = flow._wavenumbers
    modes, _ = flow.advance(flow.first(jax.random.key(0)[None]))
    modes *= (np.maximum(abs(kx), ky) < 32)[None, None]  # velocities do not show the others
    state = np.asarray(flow.velocity(modes))[0]
    wanted = np.asarray(flow.velocity(flow.advance(modes)[0]))[0]
    for seed in range(6):
        change = lambda x, seed=seed: random_symmetry(x, np.random.default_rng(seed), 4)  # noqa: E731
        u, v = np.fft.rfft2(change(state), axes=(0, 1)).transpose(2, 0, 1)
        after = flow.advance(jnp.asarray(1j * (ky * u - kx * v), jnp.complex64)[None, None])[0]
        np.testing.assert_allclose(flow.velocity(after)[0], change(wanted), atol=1e-4)
        assert abs(change(wanted) - wanted).max() > 1
    with pytest.raises(ValueError, match="wavenumber 3 is no whole number of the 64 pixels"):
        random_symmetry(state, np.random.default_rng(0), 3)


def test_symmetries_are_applied_to_training_windows_only(tmp_path):
    config = get_config("smoke")
    shape = (1, config.data.length, 2, 8, 8)  # of a single window
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.random.default_rng(0).standard_normal(shape).astype("f")
    fields = {"dataset": "trajectories", "dir": str(tmp_path / "x.h5"), "image_size": 8}
    config.data.update(fields | {"mean": (0.0, 0.0), "scale": (1.0, 1.0)})
    windows = [get_dataset(config, split, 8)[0]["image"] for split in ("train", "test")]
    assert [len(np.unique(w.reshape(8, -1)[:, 0])) > 1 for w in windows] == [True, False]
    np.testing.assert_allclose(*(np.sort(abs(w).reshape(8, -1)) for w in windows))
    config.data.kind = "images"
    with pytest.raises(ValueError, match="random_symmetry=True changes velocities of a flow"):
        get_dataset(config, "train")


def test_published_steps():
    flow = KolmogorovFlow()
    assert flow.steps == 82 and flow.longest_step == pytest.approx(0.002454, abs=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inner_steps": 20}, "CFL limit of 0.00245, .* set it to 82 or more"),
        ({"resolution": 100}, "simulation.resolution=100 must be a multiple of data.image_size=64"),
        ({"viscosity": 0.0}, "simulation.viscosity=0.0 must be positive"),
        ({"interval": float("nan")}, "simulation.interval=nan"),
    ],
)
def test_impossible_flows_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        KolmogorovFlow(**changes)


# The tool


def make(*fields):
    command = [sys.executable, "-m", "tools.make_trajectories", "--config", CONFIG, *fields]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_trajectories_are_made_and_an_interruption_loses_nothing(tmp_path):
    fields = [f"--config.data.dir={tmp_path}/flow", "--config.data.image_size=8"]
    fields += [f"--config.simulation.{k}" for k in ("trajectories=10", "states=3", "warm_up=1")]
    fields += ["--config.simulation.resolution=16", "--config.simulation.viscosity=0.02"]
    done = make(*fields, "--workers=2")
    assert done.returncode == 0, done.stderr
    sizes = {}
    for split in ("train", "valid", "test"):
        with h5py.File(tmp_path / "flow" / f"{split}.h5") as file:
            sizes[split] = file["x"].shape
    assert sizes == {"train": (8, 3, 2, 8, 8), "valid": (1, 3, 2, 8, 8), "test": (1, 3, 2, 8, 8)}
    assert not (tmp_path / "flow" / "parts").exists()
    assert "has all trajectories already" in make(*fields).stdout
    before = load_files(str(tmp_path / "flow"), "test", 3, "fields")[0]["image"]
    assert 0.1 < np.abs(before).max() < 10
    refused = make(*fields, "--config.simulation.drag=0.2")
    assert refused.returncode and "made with other settings (drag: 0.1 -> 0.2)" in refused.stderr

    # Two of ten are there, as after a kill: they are kept, and the others are the same as before.
    parts = tmp_path / "again" / "parts"
    parts.mkdir(parents=True)
    settings = json.loads((tmp_path / "flow" / "simulation.json").read_text())
    (tmp_path / "again" / "simulation.json").write_text(json.dumps(settings))
    for number in (0, 1):
        np.save(parts / f"{number:05d}.npy", np.full((3, 2, 8, 8), number, np.float32))
    fields[0] = f"--config.data.dir={tmp_path}/again"
    assert make(*fields, "--workers=1").returncode == 0
    after = load_files(str(tmp_path / "again"), "train", 3, "fields")
    assert [float(after[i]["image"].mean()) for i in range(2)] == [0, 1]
    again = load_files(str(tmp_path / "again"), "test", 3, "fields")[0]["image"]
    np.testing.assert_array_equal(again, before)
