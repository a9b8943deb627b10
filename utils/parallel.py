"""Devices and processes; no other module asks JAX how many there are.

The examples of a training batch do not depend on the hardware: process p of P processes gets the
examples p, p + P, p + 2P, ... of the batch, and splits them in order over its local devices.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scorax.utils import peers

Tree = Any
AXIS = "batch"  # name of the axis that train and eval steps are mapped over


def initialize() -> None:
    """Joins the processes of a pod or cluster, if the environment describes one.

    On TPU pods and under Slurm or Open MPI, JAX detects the processes itself. Elsewhere, set the
    environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. This
    function must run before the first use of a device.

    Raises:
      ValueError: if JAX_NUM_PROCESSES or JAX_PROCESS_ID is not a whole number.
    """
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        count, index = _env_number("JAX_NUM_PROCESSES"), _env_number("JAX_PROCESS_ID")
        jax.distributed.initialize(env["JAX_COORDINATOR_ADDRESS"], count, index)
    elif (
        "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1  # SLURM_NTASKS is set outside srun too
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    ):
        jax.distributed.initialize()
    if jax.process_count() > 1:
        peers.watch_peers(jax.process_index(), jax.process_count(), _broadcast)


def _broadcast(numbers: list[int]) -> list[int]:
    """Returns the numbers of the primary process. All processes must call it."""
    return multihost_utils.broadcast_one_to_all(np.array(numbers, np.int32)).tolist()


def _env_number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise ValueError(f"environment variable {name}={text!r} must be a whole number")
    return None if text is None else int(text)


def process_index() -> int:
    """Returns the index of this process, from 0."""
    return jax.process_index()


def process_count() -> int:
    """Returns the number of processes that work together."""
    return jax.process_count()


def is_primary() -> bool:
    """Returns whether this is the process that writes logs, pictures and reports."""
    return jax.process_index() == 0


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def local_batch_size(batch_size: int, field: str) -> int:
    """Returns how many examples of a batch of `batch_size` this process reads.

    Args:
      batch_size: number of examples over all processes.
      field: config key of the batch size, for the message.

    Raises:
      ValueError: if the batch cannot be split evenly over the devices.
    """
    if batch_size < 1 or batch_size % jax.device_count():
        raise ValueError(
            f"{field}={batch_size} cannot be split evenly over {jax.device_count()} devices; "
            f"set a positive multiple of {jax.device_count()}"
        )
    return batch_size // jax.process_count()


def map_over_devices(step: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
    """`jax.pmap` of a step over all devices of all processes, along the axis `AXIS`."""
    return jax.pmap(step, axis_name=AXIS, donate_argnums=donate_argnums)


def split_over_devices(batch: Tree, n_steps: int = 1) -> Tree:
    """Splits n_steps consecutive batches (n_steps * D * b, *S) over the D local devices.

    Returns:
      Arrays (D, n_steps, b, *S).
    """
    d = jax.local_device_count()

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(n_steps, d, -1, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def replicate(tree: Tree) -> Tree:
    """Copies every leaf to each local device, along a new leading axis."""
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def copy(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.device_put(np.broadcast_to(x, (len(devices), *x.shape)), sharding)

    return jax.tree.map(copy, tree)


def unreplicate(tree: Tree) -> Tree:
    """Returns the first local device's copy of a tree that a mapped step returned."""
    # Indexing x[0] would launch a computation for every leaf (measured: 8.7 ms against 0.01 ms).
    return jax.tree.map(lambda x: jnp.squeeze(x.addressable_shards[0].data, 0), tree)


def batch_sharding() -> NamedSharding:
    """Returns the sharding that splits the leading axis over all devices of all processes."""
    return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(AXIS))


def shard_batch(x: jax.Array) -> jax.Array:
    """Splits the examples of x: (B, *S) over all devices; to be called inside jit."""
    return jax.lax.with_sharding_constraint(x, batch_sharding())


def to_host(tree: Tree) -> Tree:
    """Returns NumPy copies of global arrays, complete on every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set on any process. All processes must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
