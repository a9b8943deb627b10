"""Weights published by score_sde_pytorch, as parameters of the networks here.

There, a network is one flat list `all_modules` in the order of its construction; here parameters
are named by place. `torch_modules` walks that order once; everything else is transposition.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from models.utils import get_model

# Names inside a module: theirs -> ours.
_BLOCK = {
    "GroupNorm_0": "norm_0",
    "Conv_0": "conv_0",
    "Dense_0": "temb",
    "GroupNorm_1": "norm_1",
    "Conv_1": "conv_1",
    "Conv_2": "shortcut",
    "NIN_0": "shortcut",
}
_ATTENTION = {"GroupNorm_0": "norm", "NIN_0": "q", "NIN_1": "k", "NIN_2": "v", "NIN_3": "out"}
_RESAMPLE = {"Conv_0": "conv", "Conv2d_0": "conv"}
_COMBINE = {"Conv_0": ""}
_PLAIN = {"": ""}


def torch_modules(model: ml_collections.ConfigDict, image_size: int) -> Iterator[tuple[str, dict]]:
    """The published NCSN++ in the order of `all_modules`: our name, and the names inside it.

    Args:
      model: the section `config.model`.
      image_size: pixels; decides where attention is.
    """
    levels = len(model.ch_mult)
    ddpm = model.resblock_type == "ddpm"
    if model.embedding_type == "fourier":
        yield "time_fourier", _PLAIN
    if model.conditional:
        yield "time_dense_0", _PLAIN
        yield "time_dense_1", _PLAIN
    yield "conv_in", _PLAIN
    for i in range(levels):
        attend = image_size // 2**i in model.attn_resolutions
        for j in range(model.num_res_blocks):
            yield f"down_{i}_block_{j}", _BLOCK
            if attend:
                yield f"down_{i}_attn_{j}", _ATTENTION
        if i < levels - 1:
            yield f"down_{i}_downsample", _RESAMPLE if ddpm else _BLOCK
            if model.progressive_input == "input_skip":
                yield f"down_{i}_combine", _COMBINE
            elif model.progressive_input == "residual":
                yield f"down_{i}_pyramid", _RESAMPLE
    yield "mid_block_0", _BLOCK
    yield "mid_attn", _ATTENTION
    yield "mid_block_1", _BLOCK
    for i in reversed(range(levels)):
        for j in range(model.num_res_blocks + 1):
            yield f"up_{i}_block_{j}", _BLOCK
        if image_size // 2**i in model.attn_resolutions:
            yield f"up_{i}_attn", _ATTENTION
        if model.progressive == "output_skip" or (
            model.progressive == "residual" and i == levels - 1
        ):
            yield f"up_{i}_out_norm", _PLAIN
            yield f"up_{i}_out_conv", _PLAIN
        elif model.progressive == "residual":
            yield f"up_{i}_pyramid", _RESAMPLE
        if i > 0:
            yield f"up_{i}_upsample", _RESAMPLE if ddpm else _BLOCK
    if model.progressive != "output_skip":
        yield "out_norm", _PLAIN
        yield "out_conv", _PLAIN


def _leaf(name: str, value: np.ndarray, place: str) -> tuple[str, np.ndarray]:
    """Our name and layout of one array: kernels HWIO or (in, out), 1x1 kernels (in, out)."""
    if name == "W":
        return ("W" if value.ndim == 1 else "kernel"), value  # Fourier frequencies, or NIN
    if name in ("b", "bias"):
        return "bias", value
    if name != "weight":
        raise ValueError(f"the state dict holds an array {name!r} in {place}, which no NCSN++ has")
    if value.ndim == 1:
        return "scale", value
    if value.ndim == 2:
        return "kernel", value.T
    kernel = value.transpose(2, 3, 1, 0)
    return "kernel", kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel


def from_torch_state_dict(
    state_dict: Mapping[str, np.ndarray], config: ml_collections.ConfigDict
) -> dict:
    """Converts a state dict of score_sde_pytorch's NCSN++ (or DDPM++).

    Args:
      state_dict: names (with or without the prefix `module.`) to arrays.
      config: describes the network; `config.model` and `config.data.image_size` are read.

    Returns:
      The parameter tree of `models.ncsnpp.NCSNpp`, float32.

    Raises:
      ValueError: if names are missing, left over or unknown, listing them.
    """
    arrays = {k.removeprefix("module."): np.asarray(v, np.float32) for k, v in state_dict.items()}
    arrays.pop("sigmas", None)  # a buffer, computed from the config
    params: dict = {}
    missing = []
    for index, (place, names) in enumerate(torch_modules(config.model, config.data.image_size)):
        prefix = f"all_modules.{index}."
        found = [key for key in arrays if key.startswith(prefix)]
        if not found:
            missing.append(f"{prefix}* ({place})")
        for key in found:
            *inner, leaf = key.removeprefix(prefix).split(".")
            inner = ".".join(inner)
            if inner not in names:
                missing.append(f"a place for {key} in {place}")
                continue
            node = params.setdefault(place, {})
            if names[inner]:
                node = node.setdefault(names[inner], {})
            name, value = _leaf(leaf, arrays.pop(key), place)
            node[name] = value
    if missing or arrays:
        raise ValueError(
            "the state dict does not belong to this config: missing "
            f"{', '.join(missing) or 'nothing'}; left over {', '.join(arrays) or 'nothing'}"
        )
    _check_shapes(params, config)
    return params


def _check_shapes(params: dict, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the tree has the names and shapes of the network's parameters."""
    size, channels = config.data.image_size, config.data.num_channels
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.float32)
    expected = jax.eval_shape(get_model(config).init, jax.random.key(0), x, labels)["params"]

    def shapes(tree: dict) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree.leaves_with_path(tree)
        return {jax.tree_util.keystr(p, simple=True, separator="."): a.shape for p, a in leaves}

    ours, theirs = shapes(expected), shapes(params)
    wrong = [
        f"{name} is {theirs.get(name, 'missing')}, expected {ours.get(name, 'none')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if wrong:
        raise ValueError(
            f"the state dict does not belong to this config: {len(wrong)} arrays differ in shape, "
            f"such as {'; '.join(wrong[:4])}"
        )
