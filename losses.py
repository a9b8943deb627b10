"""Denoising score matching, the optimizer, and the train and eval step.

Every objective is one expression. With x_t = mu x_0 + sigma z, z ~ N(0, I), the score of the
perturbation kernel is -z / sigma, and a network with score s is trained on

    w(t) ||sigma(t) s(x_t, t) + z||^2.

The objectives differ in how the noise level is drawn and in the weight w (`NoiseLevel`):

    score_sde continuous  t ~ U(eps, T), w = 1; with likelihood weighting w = g^2 / sigma^2
                          (Song et al. 2021, eq. 7; weighting: arXiv 2101.09258)
    SMLD, DDPM            one of N discrete levels, w = 1 (Song et al. 2021, section 2)
    EDM                   log(sigma / mu) ~ N(p_mean, p_std^2), w = 1 + (sigma / mu / sigma_data)^2,
                          which is lambda(sigma) ||D - x_0||^2 (Karras et al. 2022, table 1)
    EDM's VP, VE, iDDPM   sigma / mu as in the other columns of that table, w = 1
    last level            t = T alone, w = (sigma / mu)^2, which is ||D - x_0||^2 of the denoiser

A classifier of noisy images has an objective of its own: t ~ U(eps, T), and the cross-entropy of
its classes at x_t (`get_classifier_loss_fn`).

Losses are means over the batch. Noise levels and noise are functions of (seed, step, position of
the example in the data stream), so that they do not depend on how a batch is split over devices;
only dropout masks are drawn for the part of a batch that a device sees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import lax

from models.utils import Parametrization, get_score_fn
from sde_lib import SDE, VESDE, VPSDE, ScoreFn, iddpm_sigmas
from utils.arrays import batch_mul, lookup

Tree = Any
Batch = dict[str, jax.Array]
LossFn = Callable[[jax.Array, Tree, Tree, Batch], tuple[jax.Array, Tree]]

TRAIN_EPS = 1e-5  # smallest training time of continuous objectives


@flax.struct.dataclass
class State:
    """Everything training changes. No rng and no learning rate: both follow from the step.

    Attributes:
      step: number of updates made, int32.
      params, params_ema: parameters and their exponential moving average.
      opt_state: of the optax optimizer.
      model_state: variable collections of the network other than its parameters.
    """

    step: jax.Array
    params: Tree
    opt_state: Tree
    model_state: Tree
    params_ema: Tree


class NoiseLevel(NamedTuple):
    """Noise levels of a batch, each (B,): time, signal and noise coefficient, loss weight."""

    t: jax.Array
    mu: jax.Array
    sigma: jax.Array
    weight: jax.Array


def uniform_levels(
    sde: SDE, u: jax.Array, eps: float = TRAIN_EPS, likelihood_weighting: bool = False
) -> NoiseLevel:
    """Times eps + u (T - eps) for u: (B,) in [0, 1)."""
    t = eps + u * (sde.T - eps)
    mu, sigma = sde.marginal_coeffs(t)
    if not likelihood_weighting:
        return NoiseLevel(t, mu, sigma, jnp.ones_like(t))
    _, g = sde.sde(jnp.zeros_like(t), t)
    return NoiseLevel(t, mu, sigma, (g / sigma) ** 2)


def importance_levels(sde: SDE, u: jax.Array, eps: float = TRAIN_EPS) -> NoiseLevel:
    """Times in [eps, T] with density proportional to g^2 / sigma^2, for u: (B,) in [0, 1).

    The loss has the expectation of `uniform_levels` with likelihood weighting, while its weight is
    the same for all times (Song et al. 2021, arXiv 2101.09258, variance reduction by importance
    sampling). For every SDE with linear drift g^2 / sigma^2 is the derivative of
    log(sigma^2 / mu^2), so that this is a uniform log-SNR.
    """
    first, last = sde.log_snr(jnp.asarray([eps, sde.T]))
    t = jnp.clip(sde.time_of_log_snr(first + u * (last - first)), eps, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    return NoiseLevel(t, mu, sigma, jnp.full_like(t, (first - last) / (sde.T - eps)))


def discrete_levels(sde: SDE, k: jax.Array) -> NoiseLevel:
    """Levels k: (B,) of the discrete chain, 0 the cleanest (SMLD and DDPM).

    Raises:
      NotImplementedError: if the SDE has no discrete chain to train on.
    """
    mu, sigma = sde.discrete_coeffs(k)
    return NoiseLevel(k * (sde.T / (sde.N - 1)), mu, sigma, jnp.ones_like(sigma))


def ratio_levels(sde: SDE, ratio: jax.Array, sigma_data: float | None = None) -> NoiseLevel:
    """Levels with the noise-to-signal ratios sigma / mu, (B,), as far as the SDE reaches.

    Beyond either end the level at that end is taken. The weight is 1, or with sigma_data EDM's.
    """
    t = jnp.clip(sde.time_of_log_snr(-2 * jnp.log(ratio)), TRAIN_EPS, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    excess = 0.0 if sigma_data is None else (sigma / mu / sigma_data) ** 2
    return NoiseLevel(t, mu, sigma, jnp.ones_like(t) + excess)


def edm_levels(
    sde: SDE, n: jax.Array, p_mean: float, p_std: float, sigma_data: float
) -> NoiseLevel:
    """Ratios exp(p_mean + p_std n), n: (B,) standard normal (Karras et al. 2022, table 1)."""
    return ratio_levels(sde, jnp.exp(p_mean + p_std * n), sigma_data)


def edm_vp_levels(sde: SDE, u: jax.Array, beta_min: float, beta_max: float) -> NoiseLevel:
    """Ratios of the VP SDE at times 1 + u (TRAIN_EPS - 1), u: (B,) in [0, 1) (same table)."""
    mu, sigma = VPSDE(beta_min, beta_max).marginal_coeffs(1 + u * (TRAIN_EPS - 1))
    return ratio_levels(sde, sigma / mu)


def edm_ve_levels(sde: SDE, u: jax.Array, sigma_min: float, sigma_max: float) -> NoiseLevel:
    """Log-uniform ratios between sigma_min and sigma_max, u: (B,) in [0, 1) (same table)."""
    return ratio_levels(sde, VESDE(sigma_min, sigma_max).marginal_coeffs(u)[1])


def edm_iddpm_levels(sde: SDE, u: jax.Array) -> NoiseLevel:
    """Ratios that are levels of iDDPM, each as probable, u: (B,) in [0, 1) (same table)."""
    sigmas = jnp.asarray(iddpm_sigmas()[:-1], jnp.float32)  # the last is 0
    return ratio_levels(sde, sigmas[(u * len(sigmas)).astype(jnp.int32)])


def last_level(sde: SDE, u: jax.Array) -> NoiseLevel:
    """The level at T for all of u: (B,), weighted so that the loss is that of the denoiser.

    With D = (x_T + sigma^2 score) / mu it is ||D - x_0||^2: a network trained so removes noise of
    standard deviation sigma / mu, and knows no other level.
    """
    t = jnp.full_like(u, sde.T)
    mu, sigma = sde.marginal_coeffs(t)
    return NoiseLevel(t, mu, sigma, (sigma / mu) ** 2)


def score_matching_error(
    score_fn: ScoreFn, x_0: jax.Array, level: NoiseLevel, z: jax.Array
) -> jax.Array:
    """w (sigma s(x_t, t) + z)^2 for each element of x_0: (B, *S), with noise z: (B, *S)."""
    x_t = batch_mul(level.mu, x_0) + batch_mul(level.sigma, z)
    error = batch_mul(level.sigma, score_fn(x_t, level.t)) + z
    return batch_mul(level.weight, jnp.square(error))


def reduce_loss(error: jax.Array, reduce_mean: bool) -> jax.Array:
    """Mean over the batch of the mean, or of half the sum, over the data dimensions."""
    axes = tuple(range(1, error.ndim))
    return jnp.mean(jnp.mean(error, axes) if reduce_mean else 0.5 * jnp.sum(error, axes))


def get_level_fn(config: ml_collections.ConfigDict, sde: SDE) -> Callable[[jax.Array], NoiseLevel]:
    """How the configured objective draws noise levels: keys (B,) -> NoiseLevel.

    Raises:
      ValueError: for an unknown objective, or switches that exclude each other.
    """
    t = config.training
    objectives = {"score": None} | OBJECTIVES
    row = lookup(objectives, t.objective, "training.objective")
    if t.likelihood_weighting and (row or not t.continuous):
        raise ValueError(
            "training.likelihood_weighting=True weights the continuous objective; set "
            "training.continuous=True and training.objective='score', or turn it off"
        )
    if t.importance_sampling and not t.likelihood_weighting:
        raise ValueError(
            "training.importance_sampling=True draws times for the likelihood weighting; set "
            "training.likelihood_weighting=True, or turn it off"
        )
    if row:
        if not t.continuous:
            raise ValueError(f"training.objective={t.objective!r} needs training.continuous=True")
        draw, levels, fields = row
        constants = [config[section][key] for section, key in fields]
        return lambda keys: levels(sde, jax.vmap(draw)(keys), *constants)
    uniform = jax.vmap(jax.random.uniform)
    if t.importance_sampling:
        return lambda keys: importance_levels(sde, uniform(keys))
    if t.continuous:
        weighting = t.likelihood_weighting
        return lambda keys: uniform_levels(sde, uniform(keys), likelihood_weighting=weighting)
    try:
        sde.discrete_coeffs(jnp.zeros((), jnp.int32))
    except NotImplementedError as e:
        raise ValueError(f"training.sde={t.sde!r}: {e}") from e
    randint = jax.vmap(lambda key: jax.random.randint(key, (), 0, sde.N))
    return lambda keys: discrete_levels(sde, randint(keys))


class Noise(NamedTuple):
    """What is drawn for a batch: levels, noise z: (B, *S), keys (B,) that belong to the levels, and
    a key for dropout."""

    level: NoiseLevel
    z: jax.Array
    level_keys: jax.Array
    dropout_key: jax.Array


def draw_noise(rng: jax.Array, batch: Batch, level_fn: Callable[[jax.Array], NoiseLevel]) -> Noise:
    """Noise for the examples of a batch, a function of `rng` and their "index"."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch["index"])
    level_keys, noise_keys, dropout_keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys).T
    z = jax.vmap(lambda k: jax.random.normal(k, batch["image"].shape[1:]))(noise_keys)
    return Noise(level_fn(level_keys), z, level_keys, dropout_keys[0])


def drop_labels(keys: jax.Array, labels: jax.Array, num_classes: int, rate: float) -> jax.Array:
    """Class labels (B,), each replaced by num_classes, no class, with probability `rate`."""
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(dropped, num_classes, labels)


def get_sde_loss_fn(
    sde: SDE,
    model: nn.Module,
    parametrization: Parametrization,
    level_fn: Callable[[jax.Array], NoiseLevel],
    train: bool,
    reduce_mean: bool = True,
    num_classes: int = 0,
    label_dropout: float = 0.0,
) -> LossFn:
    """The loss of a network.

    Args:
      sde: the forward process.
      model, parametrization: see `models.utils.get_score_fn`.
      level_fn: draws noise levels, see `get_level_fn`.
      train: whether dropout is on, that of labels too.
      reduce_mean: mean over the data dimensions; else half their sum.
      num_classes: classes that the network is told of; 0: none.
      label_dropout: probability of hiding an example's class in training.

    Returns:
      `(rng, params, model_state, batch) -> (loss, model_state)`; the batch holds "image": (B, *S)
      in the model's range, "index": (B,), the positions of the examples in the data stream, and
      with classes "label": (B,) integers.
    """

    def loss_fn(rng: jax.Array, params: Tree, model_state: Tree, batch: Batch):
        level, z, level_keys, dropout_key = draw_noise(rng, batch, level_fn)
        classes = batch["label"] if num_classes else None
        if num_classes and train:
            label_keys = jax.vmap(jax.random.fold_in, (0, None))(level_keys, 1)
            classes = drop_labels(label_keys, classes, num_classes, label_dropout)
        score_fn = get_score_fn(
            sde, model, params, model_state, parametrization, train, dropout_key, classes
        )
        error = score_matching_error(score_fn, batch["image"], level, z)
        return reduce_loss(error, reduce_mean), model_state

    return loss_fn


def get_classifier_loss_fn(
    model: nn.Module, level_fn: Callable[[jax.Array], NoiseLevel], train: bool
) -> LossFn:
    """The cross-entropy of a classifier of noisy images, in nats (Song et al. 2021, appendix I.1).

    Args:
      model: called as `model(x, sigma, train)` with x_0 + sigma z, see `guidance`.
      level_fn: draws noise levels, see `get_level_fn`; their weights are not used.
      train: whether dropout is on.

    Returns:
      As `get_sde_loss_fn`; the batch holds "label" in any case.
    """

    def loss_fn(rng: jax.Array, params: Tree, model_state: Tree, batch: Batch):
        level, z, _, dropout_key = draw_noise(rng, batch, level_fn)
        sigma = level.sigma / level.mu
        variables, rngs = {"params": params, **model_state}, {"dropout": dropout_key}
        logits = model.apply(
            variables, batch["image"] + batch_mul(sigma, z), sigma, train, rngs=rngs
        )
        error = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(error), model_state

    return loss_fn


def get_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Learning rate of the n-th update, n from 0: linear warm-up from 0, then the decay."""
    o = config.optim
    if o.schedule not in ("constant", "cosine"):
        raise ValueError(f"unknown optim.schedule {o.schedule!r}; choose from: constant, cosine")
    decay_steps = max(config.training.n_iters - o.warmup, 1)

    def schedule(n: jax.Array) -> jax.Array:
        lr = (
            o.lr * jnp.minimum(n / o.warmup, 1.0) if o.warmup > 0 else jnp.full_like(n, o.lr, float)
        )
        if o.schedule == "constant":
            return lr
        progress = jnp.clip((n - o.warmup) / decay_steps, 0.0, 1.0)
        return lr * (1 + jnp.cos(jnp.pi * progress)) / 2

    return schedule


def _adam(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    o = config.optim

    def trained(params: Tree) -> Tree:  # the Fourier frequencies are constants: no decay
        return jax.tree.map_with_path(lambda path, _: path[-1].key != "W", params)

    return optax.adamw(
        get_schedule(config), o.beta1, o.beta2, o.eps, weight_decay=o.weight_decay, mask=trained
    )


def get_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer of `config.optim` with its schedule.

    Raises:
      ValueError: for an unknown optimizer or schedule.
    """
    o = config.optim
    optimizer = lookup(OPTIMIZERS, o.optimizer.lower(), "optimizer (optim.optimizer)")(config)
    if o.grad_clip < 0:
        return optimizer
    return optax.chain(_clip_by_global_norm(o.grad_clip), optimizer)


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Gradients times limit / max(norm, limit): optax's, by a product instead of a division.

    XLA repeats the product wherever the gradient is read; the result of a division it stores first,
    which costs one more pass over all parameters.
    """

    def update(grads: Tree, state: optax.EmptyState, params: Tree = None) -> tuple:
        scale = limit / jnp.maximum(optax.tree.norm(grads), limit)
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def ema_decay(n: jax.Array, rate: float, warmup: bool) -> jax.Array:
    """Decay at the n-th update, n from 1: the rate, or with warm-up min(rate, (1+n) / (10+n))."""
    return jnp.minimum(rate, (1.0 + n) / (10.0 + n)) if warmup else jnp.full(jnp.shape(n), rate)


def ema_update(params_ema: Tree, params: Tree, decay: jax.Array) -> Tree:
    """One step of the exponential moving average."""
    return jax.tree.map(lambda e, p: e * decay + p * (1 - decay), params_ema, params)


def init_state(params: Tree, model_state: Tree, optimizer: optax.GradientTransformation) -> State:
    """The state before the first update; the average starts at the initial parameters."""
    # A copy, because a step donates its input and no buffer can be given away twice.
    params_ema = jax.tree.map(jnp.copy, params)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), model_state, params_ema)


def get_step_fn(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    seed: int,
    ema_rate: float,
    ema_warmup: bool = False,
    axis_name: str | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """One update of the parameters.

    Args:
      loss_fn: the training loss.
      optimizer: applied after the mean of the gradients over devices.
      seed: of the noise.
      ema_rate, ema_warmup: see `ema_decay`.
      axis_name: mapped axis to average over; None where the step is not mapped.

    Returns:
      `(state, batch) -> (state, metrics)`, pure; metrics are "loss" and "grad_norm" (before
      clipping).
    """

    def step_fn(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        grad_fn = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
        (loss, model_state), grads = grad_fn(rng, state.params, state.model_state, batch)
        if axis_name is not None:
            loss, grads = lax.pmean((loss, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step + 1
        params_ema = ema_update(state.params_ema, params, ema_decay(n, ema_rate, ema_warmup))
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return State(n, params, opt_state, model_state, params_ema), metrics

    return step_fn


def get_eval_step_fn(
    loss_fn: LossFn, seed: int, axis_name: str | None = None
) -> Callable[[State, Batch], jax.Array]:
    """The loss of the averaged parameters, `(state, batch) -> loss`; loss_fn has dropout off."""

    def step_fn(state: State, batch: Batch) -> jax.Array:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, _ = loss_fn(rng, state.params_ema, state.model_state, batch)
        return loss if axis_name is None else lax.pmean(loss, axis_name)

    return step_fn


def repeat_step(step_fn: Callable, n_steps: int) -> Callable:
    """`n_steps` updates in one call: batch leaves (n_steps, B, *S), metrics (n_steps,)."""
    if n_steps > 1:
        return lambda state, batches: lax.scan(step_fn, state, batches)

    def one(state: State, batches: Batch) -> tuple[State, dict[str, jax.Array]]:
        # Without a loop XLA compiles the same step faster.
        state, metrics = step_fn(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], metrics)

    return one


OPTIMIZERS = {"adam": _adam}
# objective -> (what is drawn for each example, levels of it, further arguments: fields of a config)
OBJECTIVES = {
    "edm": (
        jax.random.normal,
        edm_levels,
        (("training", "p_mean"), ("training", "p_std"), ("model", "sigma_data")),
    ),
    "edm_vp": (
        jax.random.uniform,
        edm_vp_levels,
        (("model", "beta_min"), ("model", "beta_max")),
    ),
    "edm_ve": (
        jax.random.uniform,
        edm_ve_levels,
        (("model", "sigma_min"), ("model", "sigma_max")),
    ),
    "edm_iddpm": (jax.random.uniform, edm_iddpm_levels, ()),
    "last_level": (jax.random.uniform, last_level, ()),
    "classifier": (jax.random.uniform, uniform_levels, ()),
}
