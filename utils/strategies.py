"""How a state and its batches lie on the devices in training: one row of STRATEGIES each.

`Replicated` (pmap): every device has the whole state and its part of the batch. `Sharded` (fully
sharded data parallelism): every array of the state is split over the devices as well, so that a
state of S bytes takes S / D on each of D devices. An array is put together where the network needs
it, and its gradient is split again as soon as it is known.

Both run the same step on the same numbers, as long as nothing but the mean over `axis_name` passes
from one device to another.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from scorax.utils import parallel

Tree = Any
_SMALL = 4096  # elements; splitting a smaller array saves less than it costs


class Replicated:
    """A whole state on each device, for `jax.pmap`.

    Attributes:
      axis_name: axis over which the step has to average losses and gradients.
    """

    axis_name: str | None = parallel.AXIS

    def wrap(self, loss_fn: Callable) -> Callable:
        """The loss `(rng, params, model_state, batch)`, for parameters as `place` lays them."""
        return loss_fn

    def compile(self, step: Callable, state: Tree, batches: Tree, donate: bool = False) -> Any:
        """Compiles `(state, batches) -> anything` for arrays, or their shapes, as placed."""
        argnums = (0,) if donate else ()
        return parallel.map_over_devices(step, argnums).lower(state, batches).compile()

    def place(self, state: Tree) -> Tree:
        """Copies a state from the host, where every process has the same, to the devices."""
        return parallel.replicate(state)

    def split(self, batches: Tree, n_steps: int = 1) -> Tree:
        """Splits this process's part of n_steps batches, (n_steps * B, *S), over its devices."""
        return parallel.split_over_devices(batches, n_steps)

    def fetch(self, tree: Tree) -> Tree:
        """Returns a whole state, or other results of a step, on the host."""
        return jax.device_get(parallel.unreplicate(tree))

    def part(self, x: Any) -> tuple[int, ...]:
        """The shape of what each device has of an array of the state."""
        return x.shape

    def shapes(self, state: Tree, batches: Tree) -> tuple[Tree, Tree]:
        """What `place` and `split` return, as shapes, for whole batches (n_steps, B, *S)."""
        n = parallel.device_count()

        def split(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            steps, size, *rest = x.shape
            return jax.ShapeDtypeStruct((n, steps, size // n, *rest), x.dtype)

        copies = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), state)
        return copies, jax.tree.map(split, batches)


class Sharded:
    """A state that is split over all devices, for `jax.jit`; see `Replicated` for the methods.

    Every array is split along its longest axis that the number of devices divides. Small arrays,
    and arrays without such an axis, lie on every device.
    """

    axis_name: str | None = None

    def wrap(self, loss_fn: Callable) -> Callable:
        """The loss of parameters that are split."""

        def whole_loss_fn(rng: jax.Array, params: Tree, model_state: Tree, batch: Tree) -> Any:
            return loss_fn(rng, jax.tree.map(_gather, params), model_state, batch)

        return whole_loss_fn

    def compile(self, step: Callable, state: Tree, batches: Tree, donate: bool = False) -> Any:
        """Compiles a step, whose results are split by the same rule as its state."""

        def split_step(state: Tree, batches: Tree) -> Tree:
            return jax.tree.map(_split, step(state, batches))

        argnums = (0,) if donate else ()
        return jax.jit(split_step, donate_argnums=argnums).lower(state, batches).compile()

    def place(self, state: Tree) -> Tree:
        """Copies to each device its part of a state."""

        def copy(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, _sharding(x), lambda index: x[index])

        return jax.tree.map(copy, state)

    def split(self, batches: Tree, n_steps: int = 1) -> Tree:
        """Splits n_steps batches over the devices: global arrays (n_steps, B, *S)."""

        def copy(x: np.ndarray) -> jax.Array:
            x = x.reshape(n_steps, -1, *x.shape[1:])
            return jax.make_array_from_process_local_data(_of_batches(), x)

        return jax.tree.map(copy, batches)

    def fetch(self, tree: Tree) -> Tree:
        """Returns a whole state, or other results of a step, on the host.

        A state is put together one array at a time, because all of it may not fit on a device.
        """

        def whole(x: jax.Array) -> np.ndarray:
            here = x.is_fully_replicated
            return np.asarray(x.addressable_data(0)) if here else parallel.to_host(x)

        return jax.tree.map(whole, tree)

    def part(self, x: Any) -> tuple[int, ...]:
        """The shape of what each device has of an array of the state."""
        return _sharding(x).shard_shape(x.shape)

    def shapes(self, state: Tree, batches: Tree) -> tuple[Tree, Tree]:
        """What `place` and `split` return, as shapes with their shardings."""

        def shape(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        parts = jax.tree.map(lambda x: shape(x, _sharding(x)), state)
        return parts, jax.tree.map(lambda x: shape(x, _of_batches()), batches)


def _sharding(x: Any) -> NamedSharding:
    """How an array of a state, or what has its shape, is split."""
    n = parallel.device_count()
    axes = [k for k, size in enumerate(x.shape) if size % n == 0]
    spec: list[str | None] = [None] * len(x.shape)
    if axes and x.size >= _SMALL:
        spec[max(axes, key=lambda k: x.shape[k])] = parallel.AXIS
    return NamedSharding(parallel.mesh(), PartitionSpec(*spec))


def _of_batches() -> NamedSharding:
    return NamedSharding(parallel.mesh(), PartitionSpec(None, parallel.AXIS))


def _split(x: jax.Array) -> jax.Array:
    return lax.with_sharding_constraint(x, _sharding(x))


@jax.custom_vjp
def _gather(x: jax.Array) -> jax.Array:
    """The whole of an array that is split; its gradient is split again."""
    return lax.with_sharding_constraint(x, NamedSharding(parallel.mesh(), PartitionSpec()))


_gather.defvjp(lambda x: (_gather(x), None), lambda _, g: (_split(g),))

# config.parallel.strategy -> () -> how training uses the devices
STRATEGIES = {"pmap": Replicated, "sharded": Sharded}
