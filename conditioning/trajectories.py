"""The score of a trajectory of any length, composed from the score of short windows.

A trajectory is (B, L, *S): L states of shape S. If states depend on the others only through their
neighbours (a Markov chain), the component of the score that belongs to one state depends nearly
only on a window around it: for a chain without noise on the k states on either side. So a network
that has seen windows of 2k + 1 states knows the score of trajectories of any length (Rozet & Louppe
2023, arXiv 2306.10574, section 3.1 and algorithm 2):

    score_i(x_1 ... x_L) ~ component of the middle state of score(x_{i-k} ... x_{i+k}),

while the first and the last k states take their components from the first and the last window. The
result is a `ScoreFn`, for every sampler and every likelihood.

Time is the second axis of arrays here; the t of a score is the time of diffusion.
"""

import jax
import jax.numpy as jnp

from scorax.sde_lib import ScoreFn


def compose(score_fn: ScoreFn, order: int, chunk: int = 0) -> ScoreFn:
    """The score of trajectories, from the score of windows.

    Args:
      score_fn: the score of windows, x: (N, 2 order + 1, *S).
      order: k, the number of neighbours on either side.
      chunk: number of windows evaluated at a time, which bounds the memory; the derivative of a
        chunk evaluates its score once more. 0: all windows at once.

    Returns:
      x: (B, L, *S), t: (B,) -> (B, L, *S), for any L of at least 2 order + 1.

    Raises:
      ValueError: for an order or a chunk that is negative; when the score is called, for a
        trajectory that is shorter than a window.
    """
    if order < 0 or chunk < 0:
        raise ValueError(f"order={order} and chunk={chunk} of windows must be at least 0")

    def composed(x: jax.Array, t: jax.Array) -> jax.Array:
        windows = unfold(x, order)
        count = windows.shape[1]
        flat = windows.reshape(-1, *windows.shape[2:])
        times = jnp.repeat(t, count)
        if chunk and len(flat) > chunk:
            one = jax.checkpoint(lambda pair: score_fn(pair[0][None], pair[1][None])[0])
            scores = jax.lax.map(one, (flat, times), batch_size=chunk)
        else:
            scores = score_fn(flat, times)
        return fold(scores.reshape(windows.shape), order)

    return composed


def unfold(x: jax.Array, order: int) -> jax.Array:
    """The windows of trajectories: (B, L, *S) -> (B, L - 2 order, 2 order + 1, *S).

    Raises:
      ValueError: for trajectories shorter than a window.
    """
    width, length = 2 * order + 1, x.shape[1]
    if length < width:
        raise ValueError(
            f"a trajectory of {length} states is shorter than the window of {width} states that "
            f"the network has been trained on; take {width} states or more"
        )
    starts = jnp.arange(length - width + 1)
    return x[:, starts[:, None] + jnp.arange(width)[None]]


def fold(windows: jax.Array, order: int) -> jax.Array:
    """Takes each state from the window in which it is central: the inverse shape of `unfold`."""
    first, last = windows[:, 0, :order], windows[:, -1, order + 1 :]
    return jnp.concatenate([first, windows[:, :, order], last], axis=1)
