"""Where network meets SDE: building a network, and reading its output as a score.

What a network predicts, and what it is told of the noise level, is one row of `PARAMETRIZATIONS`:
a function `(sde, net, x, t) -> score` with `net(x, labels) -> output`. Everything downstream sees
a `ScoreFn`, x: (B, *S), t: (B,) -> grad_x log p_t(x): (B, *S), and nothing of networks.

    sigma        score = net(x, sigma)                       VE, continuous (Song et al. 2021)
    sigma_index  score = net(x, index into falling sigmas)   VE, discrete (SMLD)
    eps          score = -net(x, 999 t) / sigma              VP and sub-VP, continuous
    eps_index    score = -net(x, (N - 1) t) / sigma_i        VP, discrete (DDPM)
    edm          score = (mu D - x) / sigma^2                Karras et al. 2022, eq. 7
    score_sde    the one of the first four that score_sde uses for the SDE
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from models.ddpm import DDPM
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSN, NCSNv2, NCSNv2_128, NCSNv2_256
from sde_lib import SDE, Pair, ScoreFn, get_sde
from utils.arrays import batch_mul, lookup

Params = Any
Net = Callable[[jax.Array, jax.Array], jax.Array]
Parametrization = Callable[[SDE, Net, jax.Array, jax.Array], jax.Array]


def _sigma(sde: SDE, net: Net, x: jax.Array, t: jax.Array) -> jax.Array:
    _, sigma = sde.marginal_coeffs(t)
    return net(x, sigma)


def _sigma_index(sde: SDE, net: Net, x: jax.Array, t: jax.Array) -> jax.Array:
    return net(x, jnp.round((sde.T - t) * ((sde.N - 1) / sde.T)).astype(jnp.int32))


def _eps(sde: SDE, net: Net, x: jax.Array, t: jax.Array) -> jax.Array:
    _, sigma = sde.marginal_coeffs(t)
    return batch_mul(-1 / sigma, net(x, t * (999 / sde.T)))


def _eps_index(sde: SDE, net: Net, x: jax.Array, t: jax.Array) -> jax.Array:
    _, sigma = sde.discrete_coeffs(sde.level_index(t))
    return batch_mul(-1 / sigma, net(x, t * ((sde.N - 1) / sde.T)))


def _edm_output(net: Net, x: jax.Array, sigma: jax.Array, sigma_data: float) -> Pair:
    """F(c_in x, c_noise), and sigma^2 + sigma_data^2, for x: (B, *S) with noise sigma: (B,)."""
    total = sigma**2 + sigma_data**2
    return net(batch_mul(total**-0.5, x), jnp.log(sigma) / 4), total


def edm_denoise(net: Net, x: jax.Array, sigma: jax.Array, sigma_data: float) -> jax.Array:
    """The preconditioned denoiser D(x; sigma) of Karras et al. 2022, eq. 7 and table 1.

    Args:
      net: the inner network F(x, log(sigma) / 4).
      x: (B, *S), data plus noise of standard deviation sigma.
      sigma: (B,).
      sigma_data: standard deviation of the data.

    Returns:
      (B, *S), the estimate of the data.
    """
    output, total = _edm_output(net, x, sigma, sigma_data)
    return batch_mul(sigma_data**2 / total, x) + batch_mul(sigma * sigma_data * total**-0.5, output)


def _edm(sde: SDE, net: Net, x: jax.Array, t: jax.Array, sigma_data: float) -> jax.Array:
    mu, sigma = sde.marginal_coeffs(t)
    # x / mu is the same data with noise sigma / mu added and nothing shrunk. Putting `edm_denoise`
    # into (mu D - x) / sigma^2 would lose every digit at small sigma; collected, nothing cancels.
    output, total = _edm_output(net, batch_mul(1 / mu, x), sigma / mu, sigma_data)
    return batch_mul(sigma_data / (sigma * total**0.5), output) - batch_mul(1 / (mu**2 * total), x)


def get_parametrization(config: ml_collections.ConfigDict, sde: SDE) -> Parametrization:
    """The row of the table that `config.model.parametrization` names, for this SDE.

    Raises:
      ValueError: for an unknown name, or one that does not fit the network's switches.
    """
    name = _parametrization_name(config, sde)
    rows = PARAMETRIZATIONS | {"score_sde": None}  # resolved above, but a choice all the same
    row = lookup(rows, name, "parametrization (model.parametrization)")
    m, embedding = config.model, _embedding_type(config.model)
    if name.endswith("_index") and embedding == "fourier":
        raise ValueError(
            "model.embedding_type='fourier' embeds continuous noise levels and cannot be used "
            "with training.continuous=False; set model.embedding_type='positional'"
        )
    if embedding == "index" and name != "sigma_index":
        raise ValueError(
            f"model.name={m.name!r} looks up one of num_scales noise levels and cannot be used "
            f"with parametrization {name!r}; set training.sde='vesde', training.continuous=False "
            "and model.parametrization='score_sde'"
        )
    if m.scale_by_sigma and name != {"fourier": "sigma"}.get(embedding, "sigma_index"):
        raise ValueError(
            f"model.scale_by_sigma=True needs a network that is given sigma, but parametrization "
            f"{name!r} with model.embedding_type={embedding!r} does not give it; set "
            "model.scale_by_sigma=False"
        )
    return functools.partial(row, sigma_data=m.sigma_data) if name == "edm" else row


def _parametrization_name(config: ml_collections.ConfigDict, sde: SDE) -> str:
    name = config.model.parametrization
    if name == "score_sde":
        return sde.score_sde_rows[0 if config.training.continuous else 1]
    return name


def _model_class(m: ml_collections.ConfigDict) -> type[nn.Module]:
    return lookup(MODELS, m.name.lower(), "model (model.name)")


def _embedding_type(m: ml_collections.ConfigDict) -> str:
    """What the network does with its labels: "fourier", "positional", or "index" into a table.

    NCSN++ is told; the other networks know it themselves.
    """
    cls = _model_class(m)
    fields = {f.name for f in dataclasses.fields(cls)}
    return m.embedding_type if "embedding_type" in fields else cls.embedding_type


def get_score_fn(
    sde: SDE,
    model: nn.Module,
    params: Params,
    model_state: Params,
    parametrization: Parametrization,
    train: bool = False,
    rng: jax.Array | None = None,
) -> ScoreFn:
    """The score of a network.

    Args:
      sde: the SDE the network was trained with.
      model: called as `model(x, labels, train)`.
      params: its parameters.
      model_state: its other variable collections, used as they are.
      parametrization: what it predicts, a row of `PARAMETRIZATIONS`.
      train: whether dropout is on.
      rng: key for dropout, needed with `train`.

    Returns:
      x: (B, *S), t: (B,) -> (B, *S).
    """
    rngs = None if rng is None else {"dropout": rng}

    def net(x: jax.Array, labels: jax.Array) -> jax.Array:
        return model.apply({"params": params, **model_state}, x, labels, train, rngs=rngs)

    return functools.partial(parametrization, sde, net)


def get_model(config: ml_collections.ConfigDict) -> nn.Module:
    """Builds the network that `config.model` describes, without parameters.

    Raises:
      ValueError: for an unknown name or a field out of range.
    """
    cls = _model_class(config.model)
    sde = get_sde(config)
    get_parametrization(config, sde)
    edm = config.model.parametrization == "edm"
    fields = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
    kwargs = {key: config.model[key] for key in fields if key in config.model}
    kwargs["dtype"] = lookup(DTYPES, config.model.dtype, "dtype (model.dtype)")
    # EDM scales its input itself and passes log sigma / 4.
    kwargs["centered"] = config.data.centered or edm
    if "log_labels" in fields:
        kwargs["log_labels"] = not edm
    if config.model.scale_by_sigma and _embedding_type(config.model) != "fourier":
        with jax.ensure_compile_time_eval():  # numbers, also while a caller is being traced
            _, sigmas = sde.discrete_coeffs(jnp.arange(sde.N)[::-1])
        kwargs["sigmas"] = tuple(sigmas.tolist())
    return cls(**kwargs)


def init_model(
    rng: jax.Array, config: ml_collections.ConfigDict
) -> tuple[nn.Module, Params, Params]:
    """Builds and initialises the network.

    Returns:
      The module, its parameters and its other variable collections (empty for all networks so far).

    Raises:
      ValueError: for an unknown name or a field out of range.
    """
    model = get_model(config)
    size, channels = config.data.image_size, config.data.num_channels
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    # Draws the parameters and never runs, nor compiles, the network.
    variables = model.lazy_init(rng, x, jax.ShapeDtypeStruct((1,), jnp.float32))
    return model, variables.pop("params"), variables


MODELS = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "ncsn": NCSN,
    "ncsnv2_64": NCSNv2,
    "ncsnv2_128": NCSNv2_128,
    "ncsnv2_256": NCSNv2_256,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PARAMETRIZATIONS = {
    "sigma": _sigma,
    "sigma_index": _sigma_index,
    "eps": _eps,
    "eps_index": _eps_index,
    "edm": _edm,
}
