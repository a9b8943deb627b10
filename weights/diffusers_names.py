"""NCSN++ as the `UNet2DModel` of the diffusers library: its config and the names of its arrays.

Only one family of networks exists in both: the NCSN++ with skip connections through both pyramids,
which was trained on images of 256 pixels and more (`google/ncsnpp-*`). Layouts are PyTorch's, and
those of score_sde_pytorch but for attention, whose matrices are transposed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scorax.weights.state_dicts import (
    Path,
    from_torch_state_dict,
    published_names,
    to_torch_state_dict,
)

_NORM_GROUPS = 32  # of the attention at a level, whatever its width
# Fields of a config that describe the one family, with their values there.
_FAMILY = {
    "model.name": ("ncsnpp",),
    "model.resblock_type": ("biggan",),
    "model.progressive": ("output_skip",),
    "model.progressive_input": ("input_skip",),
    "model.progressive_combine": ("sum",),
    "model.embedding_type": ("fourier",),
    "model.conditional": (True,),
    "model.nonlinearity": ("swish",),
    "model.fir": (True,),
    "model.fir_kernel": ((1, 3, 3, 1),),
    "model.skip_rescale": (True,),
    "model.scale_by_sigma": (True,),
    "model.parametrization": ("score_sde", "sigma"),
    "training.sde": ("vesde",),
    "data.centered": (False,),
}
# Fields that files of 2022 lack; the library's own defaults are then those of the family.
_LATER_FIELDS = (
    *("add_attention", "attn_norm_num_groups", "class_embed_type", "downsample_type"),
    *("resnet_time_scale_shift", "upsample_type"),
)
_MODULES = (  # ours -> theirs, where {0} is a level and {up} its place on the way up
    (r"time_fourier", "time_proj"),
    (r"time_dense_0", "time_embedding.linear_1"),
    (r"time_dense_1", "time_embedding.linear_2"),
    (r"conv_in", "conv_in"),
    (r"down_(\d+)_block_(\d+)", "down_blocks.{0}.resnets.{1}"),
    (r"down_(\d+)_attn_(\d+)", "down_blocks.{0}.attentions.{1}"),
    (r"down_(\d+)_downsample", "down_blocks.{0}.resnet_down"),
    (r"down_(\d+)_combine", "down_blocks.{0}.skip_conv"),
    (r"mid_block_(\d+)", "mid_block.resnets.{0}"),
    (r"mid_attn", "mid_block.attentions.0"),
    (r"up_(\d+)_block_(\d+)", "up_blocks.{up}.resnets.{1}"),
    (r"up_(\d+)_attn", "up_blocks.{up}.attentions.0"),
    (r"up_(\d+)_upsample", "up_blocks.{up}.resnet_up"),
    (r"up_0_out_norm", "conv_norm_out"),
    (r"up_0_out_conv", "conv_out"),
    (r"up_(\d+)_out_norm", "up_blocks.{up}.skip_norm"),
    (r"up_(\d+)_out_conv", "up_blocks.{up}.skip_conv"),
)
_LAYERS = {
    **{"norm_0": "norm1", "conv_0": "conv1", "temb": "time_emb_proj", "norm_1": "norm2"},
    **{"conv_1": "conv2", "shortcut": "conv_shortcut"},
    **{"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
}
_OLD_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def get_unet_config(config: Any) -> dict[str, Any]:
    """The config of the `UNet2DModel` that is the configured network.

    Raises:
      ValueError: if there is none, naming the fields.
    """
    model, size = config.model, config.data.image_size
    values = {key: config[key.split(".")[0]][key.split(".")[1]] for key in _FAMILY}
    wrong = [
        f"{key}={value!r} (there {_FAMILY[key][0]!r})"
        for key, value in values.items()
        if value not in _FAMILY[key]
    ]
    if model.ch_mult[0] != 1:
        wrong.append(f"model.ch_mult={model.ch_mult} (there it starts with 1)")
    widths = [model.nf * m for m in model.ch_mult]
    attend = [size // 2**i in model.attn_resolutions for i in range(len(widths))]
    narrow = [w for w, a in zip(widths, attend, strict=True) if a and w < 4 * _NORM_GROUPS]
    if narrow:
        wrong.append(f"attention at {narrow[0]} channels (there at {4 * _NORM_GROUPS} or more)")
    if wrong:
        raise ValueError(
            "diffusers has no network that equals this config's; UNet2DModel is the NCSN++ with "
            f"skip connections through both pyramids, and differs in {'; '.join(wrong)}"
        )
    kinds = ["AttnSkip" if a else "Skip" for a in attend]
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": True,
        "attention_head_dim": None,
        "attn_norm_num_groups": None,
        "block_out_channels": widths,
        "center_input_sample": True,
        "class_embed_type": None,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "downsample_padding": 1,
        "downsample_type": "conv",
        "in_channels": config.data.num_channels,
        "layers_per_block": model.num_res_blocks,
        "mid_block_scale_factor": math.sqrt(2),
        "norm_eps": 1e-6,
        "norm_num_groups": None,
        "out_channels": config.data.num_channels,
        "resnet_time_scale_shift": "default",
        "sample_size": size,
        "time_embedding_type": "fourier",
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "upsample_type": "conv",
    }


def check_unet_config(found: Mapping[str, Any], config: Any) -> None:
    """Compares a directory's `config.json` with the configured network.

    Raises:
      ValueError: listing what differs.
    """
    wanted = get_unet_config(config)
    found = {key: wanted[key] for key in _LATER_FIELDS} | dict(found)
    wrong = [
        f"{key} is {found.get(key, '(not there)')!r}, the config has {value!r}"
        for key, value in wanted.items()
        if key not in found or not _same(found[key], value)
    ]
    if wrong:
        raise ValueError(f"config.json is not that of the configured network; {'; '.join(wrong)}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, float):  # some files have the root of two with ten digits
        return isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-9)
    return a == b


def from_diffusers_state_dict(state_dict: Mapping[str, np.ndarray], config: Any) -> dict:
    """Converts the arrays of a `UNet2DModel`, which may have the older names of attention.

    Args:
      state_dict: names to arrays.
      config: describes the network.

    Returns:
      The parameter tree of the network, float32.

    Raises:
      ValueError: if names are missing or left over, or shapes differ, listing them.
    """
    arrays = {_new_name(name): value for name, value in state_dict.items()}
    copy = arrays.pop("time_proj.W", None)  # older files have the frequencies twice
    if copy is not None and not np.array_equal(copy, arrays.get("time_proj.weight")):
        raise ValueError("time_proj.W and time_proj.weight are not the same; one of them is wrong")
    names = _names(config)
    missing, left_over = names.keys() - arrays.keys(), arrays.keys() - names.keys()
    if missing or left_over:
        listed = [("missing", missing), ("left over", left_over)]
        listed = "; ".join(f"{kind}: {', '.join(sorted(n))}" for kind, n in listed if n)
        raise ValueError(f"the arrays are not those of the configured network; {listed}")
    torch = {names[name]: _switch(names[name], value) for name, value in arrays.items()}
    return from_torch_state_dict(torch, config)


def to_diffusers_state_dict(params: Mapping, config: Any) -> dict[str, np.ndarray]:
    """The arrays of a `UNet2DModel` for parameters of ours.

    Args:
      params: the parameter tree of the network.
      config: describes the network.

    Returns:
      Names to float32 arrays.

    Raises:
      ValueError: if diffusers has no such network, or the tree is not that of the config.
    """
    get_unet_config(config)
    torch = to_torch_state_dict(params, config)
    return {
        name: np.ascontiguousarray(_switch(source, torch[source]))
        for name, source in _names(config).items()
    }


def _names(config: Any) -> dict[str, str]:
    """The network's arrays: names in diffusers -> names in score_sde_pytorch."""
    levels = len(config.model.ch_mult)
    return {_name(path, levels): a.torch for path, a in published_names(config).items()}


def _name(path: Path, levels: int) -> str:
    """The name in diffusers of a parameter of ours."""
    module, *layers, leaf = path
    for pattern, theirs in _MODULES:
        if match := re.fullmatch(pattern, module):
            numbers = [int(n) for n in match.groups()]
            up = levels - 1 - numbers[0] if numbers else None
            parts = [theirs.format(*numbers, up=up), *(_LAYERS[layer] for layer in layers)]
            return ".".join([*parts, "bias" if leaf == "bias" else "weight"])
    raise ValueError(f"the parameter {'.'.join(path)} has no place in a UNet2DModel")


def _new_name(name: str) -> str:
    """Today's name of an array, of which attention had others."""
    *parts, layer, leaf = name.split(".")
    return ".".join([*parts, _OLD_LAYERS.get(layer, layer), leaf]) if parts else name


def _switch(torch_name: str, value: np.ndarray) -> np.ndarray:
    """Transposes the matrices that one side keeps as (in, out) and the other as (out, in)."""
    return value.T if torch_name.endswith(".W") else value
