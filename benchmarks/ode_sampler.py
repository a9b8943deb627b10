"""Speed of the fully compiled probability-flow sampler against scipy's RK45 with a compiled drift.

    python -m benchmarks.ode_sampler toy configs/ve/mnist.py --batch 16
    python -m benchmarks.ode_sampler configs/ve/mnist.py --workdir runs/ve/mnist

Both integrate from the same start with the same tolerance, rtol = atol = 1e-5, as score_sde does.
"toy" is the exact score of Gaussian data of shape 8x8x3 under the VP SDE, for which nearly all time
is spent in the solver. The network of a config is freshly initialised unless --workdir names a
training run; the weights decide how many evaluations the solver makes. The weights are arguments of
the compiled functions, because a compiled loop takes twice as long if they are constants.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from benchmarks import common
from scorax import experiment, loading
from scorax.sde_lib import SDE, VPSDE
from scorax.solvers.probability_flow import get_decoder, get_drift
from scorax.utils.arrays import batch_mul
from scorax.utils.checkpoints import Checkpoints
from scorax.utils.logging import versions
from scorax.utils.shapes import image_shape

TOLERANCE = 1e-5
# name in the table -> settings of the sampler
OURS = {
    "tsit5": {"solver": "tsit5"},
    "dopri5": {"solver": "dopri5"},
    "tsit5, per sample": {"solver": "tsit5", "error_control": "sample"},
}


def toy() -> tuple[SDE, Callable, Any, tuple[int, ...]]:
    """Returns an SDE, a function parameters -> score, the parameters, and the shape of an example.

    The score is the exact one of Gaussian data, and there are no parameters.
    """
    sde = VPSDE()

    def score_fn(x: jax.Array, t: jax.Array) -> jax.Array:
        mu, sigma = sde.marginal_coeffs(t)
        return batch_mul(-1 / (0.25 * mu**2 + sigma**2), x - batch_mul(0.3 * mu, jnp.ones_like(x)))

    return sde, lambda params: score_fn, (), (8, 8, 3)


def network(path: str, workdir: str) -> tuple[SDE, Callable, Any, tuple[int, ...]]:
    """Returns the same as `toy`, for the network of a config."""
    config = common.load_config(path)
    built = experiment.build(config)
    if workdir:
        checkpoints = Checkpoints(os.path.join(workdir, "checkpoints"), config.training.n_iters)
        state, *_ = loading.restore(built, checkpoints, training=False)
        checkpoints.close()
    else:
        state = built.init_state()
    d = config.data
    get_score = lambda params: built.score_fn(params, state.model_state)  # noqa: E731
    shape = image_shape(d)
    return built.sde, get_score, jax.device_put(state.params_ema), shape


def scipy_sampler(sde: SDE, get_score: Callable) -> Callable:
    """Returns a function (params, z) -> (x, evaluations) that samples as score_sde does."""
    compiled = jax.jit(lambda params, t, x: get_drift(sde, get_score(params))(t, x))

    def sample(params: Any, z: jax.Array) -> tuple[np.ndarray, int]:
        def slope(t: float, flat: np.ndarray) -> np.ndarray:
            x = jnp.asarray(flat.reshape(z.shape), jnp.float32)
            dx = compiled(params, jnp.full(z.shape[:1], t, jnp.float32), x)
            return np.asarray(dx, np.float64).reshape(-1)

        start = np.asarray(z, np.float64).reshape(-1)
        interval = (sde.T, sde.t_min)
        solution = solve_ivp(slope, interval, start, rtol=TOLERANCE, atol=TOLERANCE, method="RK45")
        return solution.y[:, -1].reshape(z.shape), solution.nfev

    return sample


def measure(name: str, batch_size: int, rounds: int, workdir: str) -> None:
    """Prints the table of "toy" or of one config."""
    sde, get_score, params, shape = toy() if name == "toy" else network(name, workdir)
    z = sde.prior_sampling(jax.random.key(0), (batch_size, *shape))
    calls, compiling = {"scipy RK45": scipy_sampler(sde, get_score)}, {"scipy RK45": 0.0}
    for label, settings in OURS.items():
        decode = get_decoder(sde, rtol=TOLERANCE, atol=TOLERANCE, **settings)
        calls[label], compiling[label] = common.compile_with_time(
            lambda params, z, decode=decode: decode(get_score(params), z), params, z
        )
    results = {label: call(params, z) for label, call in calls.items()}
    timed = {label: (lambda call=call: call(params, z)[0]) for label, call in calls.items()}
    seconds = common.time_in_rounds(timed, rounds)
    v = versions()
    weights = "" if name == "toy" else f", weights of {workdir or 'initialisation'}"
    print(
        f"\n{name}, batch {batch_size}{weights}\n{v['device_count']} x {v['device_kind']}, "
        f"jax {v['jax']}, python {v['python']}, commit {v['commit']}\n\n"
        "| | evaluations | ms | ms each | times faster | difference | compile s |\n"
        "|---|---|---|---|---|---|---|"
    )
    reference = np.asarray(results["scipy RK45"][0])
    for label, (x, nfe) in results.items():
        ms = 1e3 * np.median(seconds[label])
        faster = np.median(seconds["scipy RK45"] / seconds[label])
        difference = np.abs(np.asarray(x) - reference).max()
        print(
            f"| {label} | {int(nfe)} | {ms:.1f} | {ms / int(nfe):.2f} | {faster:.2f} | "
            f"{difference:.1e} | {compiling[label]:.1f} |",
            flush=True,
        )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", help='"toy", FILE or FILE:variant')
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workdir", default="", help="a training run of the config")
    args = parser.parse_args()
    for name in args.names:
        measure(name, args.batch, args.rounds, args.workdir)


if __name__ == "__main__":
    main()
