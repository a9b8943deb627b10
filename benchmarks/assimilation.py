"""Drawing trajectories with a network, a method and observations that are all given."""

import dataclasses
from typing import Any

import jax
import numpy as np

from scorax import loading
from scorax.evaluators.assimilation import Assimilation


def get_problem(model: loading.Model, keys: dict[str, Any]) -> Assimilation:
    """The task "assimilate" of a model, with other keys of its config."""
    config = model.config.copy_and_resolve_references()
    config.update_from_flattened_dict(keys)
    return Assimilation(dataclasses.replace(model.experiment, config=config))


def infer(
    model: loading.Model, problem: Assimilation, y: np.ndarray, seed: int = 1
) -> tuple[np.ndarray, int]:
    """Draws one trajectory for each of y: (N, *Y) -> (N, L, *S), in units of the data, and NFE."""
    sampler, nfe = problem.get_sampler(), []

    @jax.jit
    def draw(variables: tuple, rng: jax.Array, y: jax.Array) -> jax.Array:
        score_fn = model.experiment.score_fn(*variables)
        x, evaluations = sampler(rng, score_fn, (len(y), *problem.shape), y)
        nfe.append(evaluations)
        return problem.to_data(x)

    samples = draw(model.variables, jax.random.key(seed), y)
    return np.asarray(samples), int(nfe[0])
