"""Building networks, and turning their outputs into scores.

A row of `PARAMETRIZATIONS` determines what a network predicts and how the noise level is passed to
it: it is a function `(sde, net, x, t) -> score` with `net(x, labels) -> output`. Everything
downstream only sees a `ScoreFn`, x: (B, *S), t: (B,) -> grad_x log p_t(x): (B, *S).

    sigma        score = net(x, sigma)                       VE, continuous (Song et al. 2021)
    sigma_index  score = net(x, index into falling sigmas)   VE, discrete (SMLD)
    eps          score = -net(x, 999 t) / sigma              VP and sub-VP, continuous
    eps_index    score = -net(x, (N - 1) t) / sigma_i        VP, discrete (DDPM)
    edm*         score = (mu D - x) / sigma^2                Karras et al. 2022, eq. 7
    score        score = net(x, t), for networks that ignore the noise level
    score_sde    whichever of the first four score_sde uses for the SDE

The rows `edm*` come from `PRECONDITIONINGS`, the columns of table 1 of Karras et al. 2022 (arXiv
2206.00364). They build a denoiser D from an inner network F, where sigma is sigma / mu in our
notation:

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.models.ddpm import DDPM
from scorax.models.denoising_cnn import DenoisingCNN
from scorax.models.dilated import DilatedNet
from scorax.models.fields import FieldNetwork
from scorax.models.mlp import ResidualMLP
from scorax.models.ncsnpp import NCSNpp
from scorax.models.ncsnv2 import NCSN, NCSNv2, NCSNv2_128, NCSNv2_256
from scorax.models.noise_classifier import NoiseClassifier
from scorax.models.periodic_unet import PeriodicUNet
from scorax.models.wideresnet import WideResnet
from scorax.sde_lib import SDE, VPSDE, ScoreFn, get_sde, iddpm_sigmas
from scorax.utils.arrays import align, batch_mul
from scorax.utils.options import Option, configured
from scorax.utils.shapes import Shape, model_shape
from scorax.utils.tables import lookup

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


def _score(sde: SDE, net: Net, x: jax.Array, t: jax.Array) -> jax.Array:
    return net(x, t)


class Preconditioning(NamedTuple):
    """The coefficients in table 1 of Karras et al. 2022 at noise levels sigma, all (B,).

    The score also needs `c_drop` = (1 - c_skip) / sigma^2, computed here without cancellation.
    """

    c_skip: jax.Array
    c_out: jax.Array
    c_in: jax.Array
    c_noise: jax.Array
    c_drop: jax.Array


def _edm(
    sigma: jax.Array, sigma_data: Annotated[float, Option("model.sigma_data")] = 0.5
) -> Preconditioning:
    total = sigma**2 + sigma_data**2
    c_skip, c_out = sigma_data**2 / total, sigma * sigma_data * total**-0.5
    return Preconditioning(c_skip, c_out, total**-0.5, jnp.log(sigma) / 4, 1 / total)


def _edm_vp(
    sigma: jax.Array,
    beta_min: Annotated[float, Option("model.beta_min")] = 0.1,
    beta_max: Annotated[float, Option("model.beta_max")] = 20.0,
) -> Preconditioning:
    t = VPSDE(beta_min, beta_max).time_of_log_snr(-2 * jnp.log(sigma))
    return _residual(-sigma, (1 + sigma**2) ** -0.5, 999 * t)


def _edm_ve(sigma: jax.Array) -> Preconditioning:
    return _residual(sigma, jnp.ones_like(sigma), jnp.log(sigma / 2))


def _edm_iddpm(sigma: jax.Array) -> Preconditioning:
    levels = jnp.asarray(iddpm_sigmas(), jnp.float32)
    nearest = jnp.argmin(jnp.abs(sigma[:, None] - levels[None]), 1)
    # The levels are descending; the network counts upwards from the smallest positive level.
    return _residual(-sigma, (1 + sigma**2) ** -0.5, len(levels) - 2.0 - nearest)


def _residual(c_out: jax.Array, c_in: jax.Array, c_noise: jax.Array) -> Preconditioning:
    """Coefficients with c_skip = 1."""
    return Preconditioning(jnp.ones_like(c_in), c_out, c_in, c_noise, jnp.zeros_like(c_in))


def edm_denoise(
    row: Callable[[jax.Array], Preconditioning], net: Net, x: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The denoiser D(x; sigma) of Karras et al. 2022, eq. 7 and table 1.

    Args:
      row: a row of `PRECONDITIONINGS` with its constants bound.
      net: the inner network F(x, c_noise). If it has more output channels than x, like iDDPM's
        network, which also learns variances, only the first ones are used.
      x: (B, *S), data plus noise of standard deviation sigma.
      sigma: (B,).

    Returns:
      (B, *S), the estimate of the data.
    """
    c = row(sigma)
    return batch_mul(c.c_skip, x) + batch_mul(c.c_out, _inner_output(net, x, c))


def _inner_output(net: Net, x: jax.Array, c: Preconditioning) -> jax.Array:
    return net(batch_mul(c.c_in, x), c.c_noise)[..., : x.shape[-1]]


def _preconditioned(
    row: Callable[..., Preconditioning],
    sde: SDE,
    net: Net,
    x: jax.Array,
    t: jax.Array,
    **constants: float,
) -> jax.Array:
    mu, sigma = sde.marginal_coeffs(t)
    # x / mu is the unscaled data plus noise of level sigma / mu. Inserting the value of
    # `edm_denoise` into (mu D - x) / sigma^2 would lose all digits at small sigma; with the terms
    # in x collected, nothing cancels.
    c = row(sigma / mu, **constants)
    output = _inner_output(net, batch_mul(1 / mu, x), c)
    return batch_mul(c.c_out * mu / sigma**2, output) - batch_mul(c.c_drop / mu**2, x)


def get_parametrization(config: ml_collections.ConfigDict, sde: SDE) -> Parametrization:
    """The row of `PARAMETRIZATIONS` named by `config.model.parametrization`, for the given SDE.

    Raises:
      ValueError: for an unknown name, or one that does not fit the network's settings.
    """
    name = _parametrization_name(config, sde)
    _check_parametrization(config, name)
    constants = configured(PRECONDITIONINGS[name], config) if name in PRECONDITIONINGS else {}
    row = PARAMETRIZATIONS[name]
    return functools.partial(row, **constants) if constants else row


def _check_parametrization(config: ml_collections.ConfigDict, name: str) -> None:
    rows = PARAMETRIZATIONS | {"score_sde": None}  # score_sde is resolved before, but valid too
    lookup(rows, name, "parametrization (model.parametrization)")
    m, embedding = config.model, _embedding_type(config.model)
    if name.endswith("_index") and embedding == "fourier":
        raise ValueError(
            "model.embedding_type='fourier' embeds continuous noise levels and cannot be used "
            "with training.continuous=False; set model.embedding_type='positional'"
        )
    if name == "edm_iddpm" and embedding == "fourier":
        raise ValueError(
            "model.parametrization='edm_iddpm' counts noise levels from 0, of which "
            "model.embedding_type='fourier' cannot take the log; set it to 'positional'"
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


def _parametrization_name(config: ml_collections.ConfigDict, sde: SDE) -> str:
    name = config.model.parametrization
    if name == "score_sde":
        return sde.score_sde_rows[0 if config.training.continuous else 1]
    return name


def _model_class(m: ml_collections.ConfigDict) -> type[nn.Module]:
    return lookup(MODELS | CLASSIFIERS, m.name.lower(), "model (model.name)")


def _embedding_type(m: ml_collections.ConfigDict) -> str:
    """What the network does with its labels: "fourier", "positional", or "index" into a table.

    For NCSN++ the config decides; other networks have a fixed type, or take any number: "none".
    """
    cls = _model_class(m)
    fields = {f.name for f in dataclasses.fields(cls)}
    return (
        m.embedding_type if "embedding_type" in fields else getattr(cls, "embedding_type", "none")
    )


def get_score_fn(
    sde: SDE,
    model: nn.Module,
    params: Params,
    model_state: Params,
    parametrization: Parametrization,
    train: bool = False,
    rng: jax.Array | None = None,
    class_labels: jax.Array | None = None,
    padding: np.ndarray | None = None,
) -> ScoreFn:
    """The score of a network.

    What an embedding leaves empty, its padding, is 0 in all data. Its score is therefore known,
    -x / sigma^2, and takes the place of what the network says there.

    Args:
      sde: the SDE with which the network was trained.
      model: called as `model(x, labels, train)`, with class labels as `class_labels`.
      params: parameters of the network.
      model_state: other variable collections of the network, which are not changed.
      parametrization: what the network predicts, a row of `PARAMETRIZATIONS`.
      train: whether dropout is on.
      rng: key for dropout, required if `train`.
      class_labels: (B,) integers, the classes of the examples for a class-conditional network,
        where the model's `num_classes` means no class; None if no example has a class.
      padding: True where an example is padding, and broadcasts against it; None if nothing is.

    Returns:
      x: (B, *S), t: (B,) -> (B, *S).
    """
    rngs = None if rng is None else {"dropout": rng}
    classes = {} if class_labels is None else {"class_labels": class_labels}

    def net(x: jax.Array, labels: jax.Array) -> jax.Array:
        variables = {"params": params, **model_state}
        return model.apply(variables, x, labels, train, rngs=rngs, **classes)

    score_fn = functools.partial(parametrization, sde, net)
    if padding is None:
        return score_fn

    def padded(x: jax.Array, t: jax.Array) -> jax.Array:
        _, sigma = sde.marginal_coeffs(t)
        return jnp.where(align(padding, x), batch_mul(-1 / sigma**2, x), score_fn(x, t))

    return padded


def get_model(config: ml_collections.ConfigDict, sde: SDE | None = None) -> nn.Module:
    """Builds the network that `config.model` describes, without parameters.

    Args:
      config: the whole config.
      sde: the config's SDE, if it has already been built.

    Raises:
      ValueError: for an unknown name or a field out of range.
    """
    cls = _model_class(config.model)
    sde = sde or get_sde(config)
    _check_parametrization(config, _parametrization_name(config, sde))
    row = config.model.parametrization
    fields = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
    kwargs = {key: config.model[key] for key in fields if key in config.model}
    of_images = not getattr(cls, "any_shape", False)
    on_fields = of_images and config.data.kind == "fields"
    if of_images and not on_fields and len(model_shape(config)) != 3:
        able = ", ".join(name for name, c in MODELS.items() if getattr(c, "any_shape", False))
        raise ValueError(
            f"model.name={config.model.name!r} takes images, but the examples are arrays of shape "
            f"{model_shape(config)}; set it to one of: {able}; or embed series as images "
            "(data.embedding)"
        )
    dtype = lookup(DTYPES, config.model.dtype, "dtype (model.dtype)")
    if "dtype" in fields:
        kwargs["dtype"] = dtype
    if "centered" in fields:
        # Preconditioning scales the input itself, and data that are not images are standardised.
        as_it_is = config.data.kind != "images" or row in PRECONDITIONINGS
        kwargs["centered"] = config.data.centered or as_it_is
    if "log_labels" in fields:
        kwargs["log_labels"] = row not in ("edm", "edm_ve")  # their c_noise is already a log
    if config.model.num_classes and "num_classes" not in fields:
        raise ValueError(
            f"model.num_classes={config.model.num_classes}, but model.name={config.model.name!r} "
            "takes no classes; set it to 'ncsnpp' or 'ddpm', or model.num_classes=0"
        )
    if config.model.scale_by_sigma and _embedding_type(config.model) != "fourier":
        with jax.ensure_compile_time_eval():  # concrete numbers, even while a caller is traced
            _, sigmas = sde.discrete_coeffs(jnp.arange(sde.N)[::-1])
        kwargs["sigmas"] = tuple(sigmas.tolist())
    network = cls(**kwargs)
    if on_fields:
        network = FieldNetwork(network, config.model.forcing, config.model.patch)
    return network


def init_model(
    rng: jax.Array, config: ml_collections.ConfigDict
) -> tuple[nn.Module, Params, Params]:
    """Builds and initialises the network.

    Returns:
      The module, its parameters, and its other variable collections (empty for all networks so
      far).

    Raises:
      ValueError: for an unknown name or a field out of range.
    """
    model = get_model(config)
    return model, *init_variables(rng, model, config)


def init_variables(
    rng: jax.Array, model: nn.Module, config: ml_collections.ConfigDict
) -> tuple[Params, Params]:
    """The initial parameters of a network, and its other variable collections."""
    x = jax.ShapeDtypeStruct((1, *model_shape(config)), jnp.float32)
    # Draws the parameters without running or compiling the network.
    variables = model.lazy_init(rng, x, jax.ShapeDtypeStruct((1,), jnp.float32))
    return variables.pop("params"), variables


def get_variable_shapes(
    model: nn.Module, config: ml_collections.ConfigDict
) -> tuple[Params, Params]:
    """Shapes and types of what `init_variables` returns, without computing it."""
    return _variable_shapes(model, model_shape(config))


@functools.lru_cache(maxsize=8)  # tracing a deep network takes seconds
def _variable_shapes(model: nn.Module, shape: Shape) -> tuple[Params, Params]:
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, labels)
    return variables.pop("params"), variables


MODELS = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "ncsn": NCSN,
    "ncsnv2_64": NCSNv2,
    "ncsnv2_128": NCSNv2_128,
    "ncsnv2_256": NCSNv2_256,
    "denoising_cnn": DenoisingCNN,
    "mlp": ResidualMLP,
    "dilated": DilatedNet,
    "periodic_unet": PeriodicUNet,
}
# Networks that classify noisy images, and have no score: x: (B, H, W, C), sigma: (B,) -> logits
CLASSIFIERS = {"wideresnet": WideResnet, "noise_classifier": NoiseClassifier}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PRECONDITIONINGS = {
    "edm": _edm,
    "edm_vp": _edm_vp,
    "edm_ve": _edm_ve,
    "edm_iddpm": _edm_iddpm,
}
PARAMETRIZATIONS = {
    "sigma": _sigma,
    "sigma_index": _sigma_index,
    "eps": _eps,
    "eps_index": _eps_index,
    "score": _score,
    **{name: functools.partial(_preconditioned, row) for name, row in PRECONDITIONINGS.items()},
}
