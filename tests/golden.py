"""Reference values of published implementations: reading them, and the one limit they set.

The files are those of `tests/golden/`: images NCHW, convolution kernels OIHW, configs and lists of
cases as JSON in arrays of their own. An array `name_f64` is the same computation in double
precision on the same float32 inputs.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.configs import base
from scorax.sde_lib import VESDE, VPSDE, subVPSDE
from scorax.weights.state_dicts import from_torch_state_dict

FOLDER = Path(__file__).parent / "golden"


@functools.cache
def load(name):
    """All arrays of a file, by name."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as z:
        return {key: z[key] for key in z.files}


def parse(z, key):
    """The JSON that an array holds."""
    return json.loads(str(z[key]))


def cases(name):
    """The list of cases of a file, for parametrisation by `key`."""
    return parse(load(name), "cases")


def nhwc(x):
    """(B, C, H, W) -> (B, H, W, C); anything that is not 4-D is returned as it is."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def config_of(settings):
    """Our config with the settings of a published one: {section: {field: value}}.

    Fields that we do not have (there are a few that the published networks ignore) are skipped.
    """
    config = base.get_config()
    for section, fields in settings.items():
        ours = config[section]
        for field, value in fields.items():
            if field in ours:
                ours[field] = tuple(value) if isinstance(value, list) else type(ours[field])(value)
    return config


def part(z, prefix):
    """The arrays below a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in z.items() if key.startswith(prefix)}


def params_of(z, prefix, config: ml_collections.ConfigDict):
    """The parameters below a prefix, in our names and layout."""
    return jax.tree.map(jnp.asarray, from_torch_state_dict(part(z, prefix), config))


def sde_of(name, settings):
    """The SDE "ve", "vp" or "subvp" with the numbers of a file's `config`."""
    n = settings["N"]
    if name == "ve":
        return VESDE(settings["ve_sigma_min"], settings["ve_sigma_max"], N=n)
    cls = {"vp": VPSDE, "subvp": subVPSDE}[name]
    return cls(settings["vp_beta_min"], settings["vp_beta_max"], N=n)


def relative_error(actual, reference):
    """Largest absolute deviation over the largest absolute value of the reference."""
    actual, reference = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape
    assert np.isfinite(actual).all()
    return np.abs(actual - reference).max() / max(np.abs(reference).max(), 1e-30)


def assert_golden(actual, z, key):
    """Holds `actual` (NHWC) to the published value `z[key]`.

    Rounding is all that may differ. Where a double-precision twin shows how far rounding moved the
    published float32 value, ours may be off by a small multiple of that; 1e-4 otherwise.
    """
    published = nhwc(z[key])
    twin = z.get(f"{key}_f64")
    if twin is None:
        reference, limit = published, 1e-4
    else:
        reference = nhwc(twin)
        limit = max(1e-4, 4 * relative_error(published, reference))
    error = relative_error(actual, reference)
    assert error <= limit, f"{key}: relative error {error:.2e} exceeds {limit:.2e}"
