"""The tasks "loss" and "bpd": how well a network describes data, by default held-out ones."""

import contextlib
import functools
import logging
from typing import Any

import jax
import numpy as np

from scorax import losses
from scorax.datasets import get_dataset
from scorax.evaluators.context import Numbers, TaskContext, is_held_out, mean_nfe
from scorax.experiment import Experiment
from scorax.likelihood import (
    dequantize,
    get_configured_density_fn,
    get_configured_likelihood_fn,
    get_likelihood_fn,
    pool,
)
from scorax.sde_lib import ScoreFn
from scorax.utils import parallel
from scorax.utils.embeddings import get_embedding
from scorax.utils.options import configured
from scorax.utils.rounds import Arrays
from scorax.utils.shapes import model_shape

_log = logging.getLogger(__name__)


def evaluate_loss(context: TaskContext) -> Numbers:
    """The training objective on held-out data, with one noise level and noise for each example.

    Every example counts the same, even in a last batch that is not full. The noise of an example is
    determined by its position in the split. The standard error reflects the choice of both examples
    and noise.
    """
    config, state, n = context.config, context.state, context.num_examples
    loss_fn = context.experiment.loss_fn(train=False)
    batches = get_dataset(config, config.eval.split, context.batch_size, shuffle=False)

    @jax.jit
    def loss_of_each(params: Any, model_state: Any, batch: losses.Batch) -> jax.Array:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss_of_one(example: losses.Batch) -> jax.Array:
            batch = jax.tree.map(lambda x: x[None], example)
            return loss_fn(rng, params, model_state, batch)[0]

        return jax.vmap(loss_of_one)(jax.tree.map(parallel.shard_batch, batch))

    def one(i: int) -> Arrays:
        # Each process reads its share of the batch and receives the shares of the others.
        batch = parallel.to_host(batches[i])
        batch = jax.tree.map(lambda x: x[np.argsort(batch["index"])], batch)
        each = loss_of_each(state.params_ema, state.model_state, batch)
        return {"loss": parallel.to_host(each)}

    return _report(context, "loss", context.show_rounds("loss", n, one)["loss"])


def evaluate_bpd(context: TaskContext) -> Numbers:
    """Bits per dimension of images, each with `eval.bpd_repeats` draws of noise: `bpd.npz`.

    Of data without levels, it is the negative logarithm of the density, in nats per dimension and
    in units of the data. The archive holds "bpd" or "nats_per_dim": (R, N), and "stderr": (R, N),
    the standard error due to the choice of probes. The standard error in the report is the error of
    the mean over the examples.
    """
    config, source, n = context.config, context.source, context.num_examples
    sde, levels = context.experiment.sde, source.levels
    name = "bpd" if levels else "nats_per_dim"
    if levels:
        likelihood_fn = get_configured_likelihood_fn(config, sde, levels)
    else:
        likelihood_fn = get_configured_density_fn(config, sde)

    def evaluate(score_fn: ScoreFn, x: jax.Array, rng: jax.Array) -> tuple:
        found = likelihood_fn(rng, score_fn, x)
        return found[0], found.stderr, found.nfe

    compiled = context.compile(evaluate)

    def one(repeat: int, i: int) -> Arrays:
        noise_rng, probe_rng = jax.random.split(jax.random.fold_in(context.rng(i), repeat))
        x = context.read(source, context.positions(i, len(source)))
        x = dequantize(noise_rng, x, levels) if levels else x
        value, stderr, nfe = compiled(np.asarray(context.scaler(x)), probe_rng)
        return {name: value, "stderr": stderr, "nfe": np.array([nfe])}

    parts = [
        context.show_rounds(f"bpd_{r}", n, functools.partial(one, r))
        for r in range(config.eval.bpd_repeats)
    ]
    values, stderr = (np.stack([p[key] for p in parts]) for key in (name, "stderr"))
    context.save_npz("bpd.npz", **{name: values}, stderr=stderr)
    nfe = mean_nfe(np.concatenate([p["nfe"] for p in parts]))
    report = _report(context, name, values) | {"repeats": len(parts), "nfe": nfe}
    return report | ({} if levels else _about_density(context))


def _about_density(context: TaskContext) -> Numbers:
    """What the density of data without levels means, and its exact value if that is known."""
    config, source = context.config, context.source
    about: Numbers = {"of": f"negative log density of {source.kind} in units of the data"}
    embedding = get_embedding(config)
    if embedding is not None:
        places, points = int(embedding.is_data.sum()), embedding.length
        if places > points:
            about["of"] = "negative log density of the images in which series are embedded"
            about["warning"] = (
                f"{points} points stand at {places} places, and images with repeated values have "
                "no density: the number depends on eval.bpd_eps, and compares networks with the "
                "same embedding only"
            )
            _log.warning("bpd: %s", about["warning"])
    with contextlib.suppress(NotImplementedError):
        x = context.read(source, np.arange(context.num_examples))
        about["exact"] = float(-source.log_density(x).mean() / np.prod(x.shape[1:]))
    return about


def _report(context: TaskContext, name: str, values: np.ndarray) -> Numbers:
    """Reports the mean of (N,) or (R, N) numbers, one for each example and draw of noise."""
    mean, stderr, n = pool(values)
    split = context.config.eval.split
    report = {"split": split, "held_out": is_held_out(context.config, split)}
    report |= {"num_examples": n, name: mean}
    return report | {"stderr": stderr if n > 1 else None}


def check_bpd(experiment: Experiment) -> None:
    """Builds the likelihood, and traces it with a trivial score."""
    if experiment.config.eval.bpd_repeats < 1:
        raise ValueError(
            f"eval.bpd_repeats={experiment.config.eval.bpd_repeats} must be at least 1"
        )
    likelihood_fn = get_likelihood_fn(
        experiment.sde, **configured(get_likelihood_fn, experiment.config)
    )
    x = np.zeros((1, *model_shape(experiment.config)), np.float32)
    jax.eval_shape(lambda rng: likelihood_fn(rng, lambda x, t: x, x), jax.random.key(0))
