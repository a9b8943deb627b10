"""What the chips that people train on can do, by the name that JAX gives a device.

The peaks are for dense products of bfloat16 matrices (float16 on V100), from the makers' data
sheets, and so are the memories, in bytes. Of chips that come with two sizes, the smaller one is
listed. A device of a TPU v4 or v5p is a chip with two cores.
"""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device.

    Attributes:
      peak: floating-point operations per second.
      memory: bytes.
    """

    peak: float
    memory: float


CHIPS = {
    "TPU v4": Chip(275e12, 32 * _GIB),
    "TPU v5 lite": Chip(197e12, 16 * _GIB),
    "TPU v5": Chip(459e12, 95 * _GIB),
    "TPU v6 lite": Chip(918e12, 32 * _GIB),
    "Tesla V100": Chip(125e12, 16 * _GIB),
    "NVIDIA L4": Chip(121e12, 24 * _GIB),
    "NVIDIA A100": Chip(312e12, 40 * _GIB),
    "NVIDIA H100": Chip(989e12, 80 * _GIB),
    "NVIDIA H200": Chip(989e12, 141 * _GIB),
}


def get_chip(device_kind: str) -> Chip | None:
    """Returns what is known of a kind of device; None for CPUs and others that are not listed.

    JAX adds the form of a GPU to its name, as in "NVIDIA H100 80GB HBM3".
    """
    named = [kind for kind in CHIPS if f"{device_kind} ".replace("-", " ").startswith(f"{kind} ")]
    return CHIPS[named[0]] if named else None
