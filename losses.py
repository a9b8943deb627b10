"""Denoising score matching, the optimizer, and the train and eval step.

Every objective is one expression. With x_t = mu x_0 + sigma z, z ~ N(0, I), the score of the
perturbation kernel is -z / sigma, and a network with score s is trained on

    w(t) ||sigma(t) s(x_t, t) + z||^2.

The objectives differ in how the noise level is drawn and in the weight w (`noise_levels`). The
noise classifier has its own objective, the cross-entropy of the classes at x_t
(`get_classifier_loss_fn`).

Losses are means over the batch. Noise levels and noise are functions of (seed, step, position of
the example in the data stream), so they do not depend on how a batch is split over devices. Only
dropout masks are drawn separately for each device's part of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import lax

from scorax.models.utils import Parametrization, get_score_fn
from scorax.noise_levels import LevelFn, NoiseLevel
from scorax.sde_lib import SDE, ScoreFn
from scorax.utils.arrays import align, batch_mul
from scorax.utils.tables import lookup

Tree = Any
Batch = dict[str, jax.Array]
LossFn = Callable[[jax.Array, Tree, Tree, Batch], tuple[jax.Array, Tree]]


@flax.struct.dataclass
class State:
    """Everything that training changes. The random key and the learning rate follow from the step.

    Attributes:
      step: number of updates made, int32.
      params, params_ema: the network's parameters and their exponential moving average.
      opt_state: state of the optax optimizer.
      model_state: the network's variable collections other than its parameters.
    """

    step: jax.Array
    params: Tree
    opt_state: Tree
    model_state: Tree
    params_ema: Tree


def score_matching_error(
    score_fn: ScoreFn, x_0: jax.Array, level: NoiseLevel, z: jax.Array
) -> jax.Array:
    """w (sigma s(x_t, t) + z)^2 for each element of x_0: (B, *S), with the noise z: (B, *S)."""
    x_t = batch_mul(level.mu, x_0) + batch_mul(level.sigma, z)
    error = batch_mul(level.sigma, score_fn(x_t, level.t)) + z
    return batch_mul(level.weight, jnp.square(error))


def reduce_loss(error: jax.Array, reduce_mean: bool) -> jax.Array:
    """Averages over the batch the mean, or half the sum, over the data dimensions."""
    axes = tuple(range(1, error.ndim))
    return jnp.mean(jnp.mean(error, axes) if reduce_mean else 0.5 * jnp.sum(error, axes))


class Noise(NamedTuple):
    """The random draws for a batch.

    Attributes:
      level: noise levels.
      z: (B, *S), standard normal noise.
      level_keys: (B,), the keys from which the levels were drawn.
      dropout_key: key for dropout.
    """

    level: NoiseLevel
    z: jax.Array
    level_keys: jax.Array
    dropout_key: jax.Array


def draw_noise(rng: jax.Array, batch: Batch, level_fn: LevelFn) -> Noise:
    """Draws noise for the examples of a batch, as a function of `rng` and batch["index"]."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch["index"])
    level_keys, noise_keys, dropout_keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys).T
    z = jax.vmap(lambda k: jax.random.normal(k, batch["image"].shape[1:]))(noise_keys)
    return Noise(level_fn(level_keys), z, level_keys, dropout_keys[0])


def drop_labels(keys: jax.Array, labels: jax.Array, num_classes: int, rate: float) -> jax.Array:
    """Replaces each of the labels (B,) by num_classes, "no class", with probability `rate`."""
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(dropped, num_classes, labels)


def get_sde_loss_fn(
    sde: SDE,
    model: nn.Module,
    parametrization: Parametrization,
    level_fn: LevelFn,
    train: bool,
    reduce_mean: bool = True,
    num_classes: int = 0,
    label_dropout: float = 0.0,
    padding: np.ndarray | None = None,
) -> LossFn:
    """The denoising score matching loss of a network.

    Args:
      sde: the forward process.
      model, parametrization: see `models.utils.get_score_fn`.
      level_fn: draws noise levels, see `noise_levels.get_level_fn`.
      train: whether dropout is on, including dropout of labels.
      reduce_mean: whether to take the mean over the data dimensions, or else half the sum.
      num_classes: number of classes of a class-conditional network; 0 for any other network.
      label_dropout: probability of hiding an example's class in training.
      padding: True where an example is padding, see `get_score_fn`; it does not count in the loss.

    Returns:
      `(rng, params, model_state, batch) -> (loss, model_state)`. The batch holds "image": (B, *S)
      in the model's range, "index": (B,), the positions of the examples in the data stream, and,
      for a class-conditional network, "label": (B,) integers.
    """

    def loss_fn(rng: jax.Array, params: Tree, model_state: Tree, batch: Batch):
        level, z, level_keys, dropout_key = draw_noise(rng, batch, level_fn)
        classes = batch["label"] if num_classes else None
        if num_classes and train:
            label_keys = jax.vmap(jax.random.fold_in, (0, None))(level_keys, 1)
            classes = drop_labels(label_keys, classes, num_classes, label_dropout)
        score_fn = get_score_fn(
            sde, model, params, model_state, parametrization, train, dropout_key, classes, padding
        )
        error = score_matching_error(score_fn, batch["image"], level, z)
        if padding is not None:
            share = 1 - np.mean(padding) if reduce_mean else 1.0  # of what counts in the mean
            error = jnp.where(align(padding, error), 0, error) / share
        return reduce_loss(error, reduce_mean), model_state

    return loss_fn


def get_classifier_loss_fn(model: nn.Module, level_fn: LevelFn, train: bool) -> LossFn:
    """The cross-entropy of a noise classifier, in nats (Song et al. 2021, appendix I.1).

    Args:
      model: called as `model(x, sigma, train)` with x = x_0 + sigma z, see `conditioning.guidance`.
      level_fn: draws noise levels, see `noise_levels.get_level_fn`; their weights are not used.
      train: whether dropout is on.

    Returns:
      The same kind of function as `get_sde_loss_fn`; the batch must hold "label".
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
    """Learning rate of update n = 0, 1, ...: a linear warm-up from 0, then the decay."""
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

    def trained(params: Tree) -> Tree:  # the Fourier frequencies are constants, so do not decay
        return jax.tree.map_with_path(lambda path, _: path[-1].key != "W", params)

    return optax.adamw(
        get_schedule(config), o.beta1, o.beta2, o.eps, weight_decay=o.weight_decay, mask=trained
    )


def get_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The optimizer of `config.optim` with its schedule, after clipping by the global norm.

    Raises:
      ValueError: for an unknown optimizer or schedule.
    """
    o = config.optim
    optimizer = lookup(OPTIMIZERS, o.optimizer.lower(), "optimizer (optim.optimizer)")(config)
    if o.grad_clip < 0:
        return optimizer
    return optax.chain(_clip_by_global_norm(o.grad_clip), optimizer)


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Multiplies gradients by limit / max(norm, limit), where optax's own clipping divides.

    XLA fuses the product into every use of the gradient. It would store the result of a division
    first, which costs one more pass over all parameters.
    """

    def update(grads: Tree, state: optax.EmptyState, params: Tree = None) -> tuple:
        scale = limit / jnp.maximum(optax.tree.norm(grads), limit)
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def ema_decay(n: jax.Array, rate: float, warmup: bool) -> jax.Array:
    """Decay at update n = 1, 2, ...: the rate, or with warm-up min(rate, (1+n) / (10+n))."""
    return jnp.minimum(rate, (1.0 + n) / (10.0 + n)) if warmup else jnp.full(jnp.shape(n), rate)


def ema_update(params_ema: Tree, params: Tree, decay: jax.Array) -> Tree:
    """One step of the exponential moving average."""
    return jax.tree.map(lambda e, p: e * decay + p * (1 - decay), params_ema, params)


def init_state(params: Tree, model_state: Tree, optimizer: optax.GradientTransformation) -> State:
    """The state before the first update; the moving average starts at the initial parameters."""
    # A copy, because a step donates its input, and a buffer cannot be donated twice.
    params_ema = jax.tree.map(jnp.copy, params)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), model_state, params_ema)


def get_grad_fn(loss_fn: LossFn, accumulate: int = 1) -> Callable:
    """The loss and its gradient by the parameters, from one part of the batch after the other.

    Activations then take the memory of one part, and the result is the same up to rounding, except
    for dropout masks, which are drawn for each part.

    Args:
      loss_fn: the loss of a batch, a mean over its examples.
      accumulate: number of parts, which must divide the number of examples.

    Returns:
      `(rng, params, model_state, batch) -> ((loss, model_state), gradient)`.
    """
    grad_fn = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
    if accumulate == 1:
        return grad_fn

    def accumulated(rng: jax.Array, params: Tree, model_state: Tree, batch: Batch) -> tuple:
        # Part k has the examples k, k + n, ..., so that each device has its share of every part.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total: tuple, part: Batch) -> tuple:
            model_state, *sums = total
            (loss, model_state), grads = grad_fn(rng, params, model_state, part)
            return (model_state, *jax.tree.map(jnp.add, sums, [loss, grads])), None

        start = model_state, jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (model_state, *sums), _ = lax.scan(add, start, parts)
        loss, grads = jax.tree.map(lambda x: x / accumulate, sums)
        return (loss, model_state), grads

    return accumulated


def get_step_fn(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    seed: int,
    ema_rate: float,
    ema_warmup: bool = False,
    axis_name: str | None = None,
    accumulate: int = 1,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """The training step: one update of the parameters.

    Args:
      loss_fn: the training loss.
      optimizer: applied to the gradients after they are averaged over devices.
      seed: seed of the noise.
      ema_rate, ema_warmup: see `ema_decay`.
      axis_name: mapped axis to average over; None if the step is not mapped.
      accumulate: see `get_grad_fn`.

    Returns:
      A pure function `(state, batch) -> (state, metrics)`; metrics are "loss", "grad_norm" (before
      clipping) and "skipped": 1 if one of these is not finite. Then only the step counter moves.
    """

    grad_fn = get_grad_fn(loss_fn, accumulate)

    def step_fn(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, model_state), grads = grad_fn(rng, state.params, state.model_state, batch)
        if axis_name is not None:
            loss, grads = lax.pmean((loss, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step + 1
        params_ema = ema_update(state.params_ema, params, ema_decay(n, ema_rate, ema_warmup))
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"])
        new = State(n, params, opt_state, model_state, params_ema)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state.replace(step=n))
        return kept, metrics | {"skipped": 1 - finite}

    return step_fn


def get_eval_step_fn(
    loss_fn: LossFn, seed: int, axis_name: str | None = None
) -> Callable[[State, Batch], jax.Array]:
    """The loss of the averaged parameters, `(state, batch) -> loss`.

    Args:
      loss_fn: the loss, built with `train=False`.
      seed: seed of the noise.
      axis_name: mapped axis to average over; None if the step is not mapped.
    """

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
        # XLA compiles a single step faster without a loop.
        state, metrics = step_fn(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], metrics)

    return one


OPTIMIZERS = {"adam": _adam}
