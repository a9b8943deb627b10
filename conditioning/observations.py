"""What is observed of a trajectory: operators A on (B, L, *S) -> (B, *Y), in the units of the data.

Source of the scenarios: Rozet & Louppe 2023 (arXiv 2306.10574), sections 4 and 5. Fields are
(B, L, H, W, C) on a torus, velocities (u, v) along the axes H and W; states of other systems are
vectors (B, L, C).
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from scorax.conditioning.operators import Operator
from scorax.utils.fields import coarsen, vorticity
from scorax.utils.options import Option

Every = Annotated[int, Option("eval.observe_every")]
Factor = Annotated[int, Option("eval.operator_factor")]


def saturate(x: jax.Array) -> jax.Array:
    """x / (1 + |x|), a sensor that saturates."""
    return x / (1 + jnp.abs(x))


def get_component(
    component: Annotated[int, Option("eval.observe_component")] = 0, every: Every = 1
) -> Operator:
    """One component of every n-th state: (B, L, C) -> (B, L', 1)."""

    def operator(x: jax.Array) -> jax.Array:
        if not 0 <= component < x.shape[-1]:
            raise ValueError(
                f"eval.observe_component={component}, but a state has {x.shape[-1]} components"
            )
        return x[:, ::every, ..., component : component + 1]

    return operator


def get_coarse(factor: Factor = 8, every: Every = 1) -> Operator:
    """Block means of every n-th state."""
    return lambda x: coarsen(x[:, ::every], factor)


def get_subsample(factor: Factor = 8, every: Every = 1) -> Operator:
    """One pixel of each block of factor x factor, of every n-th state."""
    return lambda x: x[:, ::every, ::factor, ::factor]


def get_patch(factor: Factor = 4, every: Every = 1) -> Operator:
    """Block means of every n-th state, in the middle half of the field along both axes."""

    def operator(x: jax.Array) -> jax.Array:
        y = coarsen(x[:, ::every], factor)
        height, width = y.shape[2:4]
        return y[:, :, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]

    return operator


def get_saturation(factor: Factor = 2, every: Every = 1) -> Operator:
    """The saturated vorticity of block means, of every n-th state; not linear."""
    return lambda x: saturate(vorticity(coarsen(x[:, ::every], factor)))


def get_ring() -> Operator:
    """The vorticity of the last state on a ring 0.4 < r^2 < 0.6 in the square [-1, 1]^2."""

    def operator(x: jax.Array) -> jax.Array:
        axes = [np.linspace(-1, 1, n) for n in x.shape[2:4]]
        radius = np.add.outer(axes[0] ** 2, axes[1] ** 2)
        inside = np.flatnonzero((radius > 0.4) & (radius < 0.6))
        return vorticity(x[:, -1]).reshape(len(x), -1)[:, inside]

    return operator


def get_loop() -> Operator:
    """The first state minus the last one, which is 0 for a trajectory that returns."""
    return lambda x: x[:, 0] - x[:, -1]


OBSERVATIONS = {
    "component": get_component,
    "coarse": get_coarse,
    "subsample": get_subsample,
    "patch": get_patch,
    "saturation": get_saturation,
    "ring": get_ring,
    "loop": get_loop,
}
