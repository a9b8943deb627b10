from pathlib import Path

import numpy as np
import pytest

import run_lib
import runs
from configs import base

FILES = sorted((runs.ROOT / "configs").glob("*/*.py"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in FILES]
FAST = {"ve/mnist", "vp/mnist", "subvp/mnist"}  # one for each SDE
SMOKE = [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in NAMES]


def load(name, variant=""):
    namespace = {}
    exec(Path(runs.ROOT / "configs" / f"{name}.py").read_text(), namespace)
    return namespace["get_config"](variant)


def keys(tree, prefix=""):
    for key, value in tree.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]


def test_every_table_of_experiments_is_found():
    assert FAST < set(NAMES)


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_has_the_keys_and_types_of_the_base_and_builds(name, variant, monkeypatch):
    # Batches of published sizes need not split over the devices of this test.
    monkeypatch.setattr(run_lib.parallel, "local_batch_size", lambda size, field: size)
    config = load(name, variant)
    assert set(keys(config.to_dict())) == set(keys(base.get_config().to_dict()))
    run_lib.build(config)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="unknown config variant 'smok'; write FILE or FILE:smoke"):
        load("ve/mnist", "smok")


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_variant_trains_and_samples(name, tmp_path):
    n = load(name, "smoke").training.n_jitted_steps
    training = {"n_iters": 2 * n, "log_freq": 2 * n, "snapshot_freq_for_preemption": 2 * n}
    steps = 25  # with fewer, VP's beta / N would exceed 1
    config = runs.get_config(name, training=training, sampling={"steps": steps})
    with runs.compilation_cache(tmp_path.parent / "cache"):
        state = run_lib.train(config, str(tmp_path))
    assert int(state.step) == 2 * n
    assert (tmp_path / "samples" / f"step_{2 * n}.png").exists()
    assert np.isfinite(runs.scalars(tmp_path, "training_loss")[2 * n])
