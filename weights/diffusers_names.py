"""NCSN++ as the `UNet2DModel` of the diffusers library: its config and the names of its arrays.

Only one family of networks exists both here and in diffusers: the NCSN++ with skip connections
through both pyramids, which was trained on images of 256 pixels and more (`google/ncsnpp-*`). Its
arrays have the same layouts as in score_sde_pytorch, except that the matrices of attention are
transposed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scorax.utils.shapes import image_shape
from scorax.weights.state_dicts import (
    Path,
    from_torch_state_dict,
    published_names,
    to_torch_state_dict,
)

_NORM_GROUPS = 32  # groups of the norms in attention, at every width
# Fields of a config that describe this family, with the values that they must have.
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
# Fields that files of 2022 lack. The defaults of diffusers are then the values of this family.
_LATER_FIELDS = (
    "add_attention",
    "attn_norm_num_groups",
    "class_embed_type",
    "downsample_type",
    "resnet_time_scale_shift",
    "upsample_type",
)
_MODULES = (  # our name -> name in diffusers; {0} is a level, {up} its index on the way up
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
_LAYERS = {  # our name -> name in diffusers
    "norm_0": "norm1",
    "conv_0": "conv1",
    "temb": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "out": "to_out.0",
}
# older name in diffusers -> current name
_OLD_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def get_unet_config(config: Any) -> dict[str, Any]:
    """Returns the config of the `UNet2DModel` that equals the configured network.

    Raises:
      ValueError: if diffusers has no such network; the message names the fields that differ.
    """
    _check_family(config)
    model, size = config.model, config.data.image_size
    widths = [model.nf * m for m in model.ch_mult]
    kinds = ["AttnSkip" if a else "Skip" for a in _levels_with_attention(config)]
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
        "sample_size": size if isinstance(size, int) else list(size),
        "time_embedding_type": "fourier",
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "upsample_type": "conv",
    }


def _levels_with_attention(config: Any) -> list[bool]:
    (height, *_), model = image_shape(config), config.model
    return [height // 2**i in model.attn_resolutions for i in range(len(model.ch_mult))]


def _check_family(config: Any) -> None:
    """Raises ValueError unless diffusers has the configured network."""
    model = config.model
    values = {key: config[key.split(".")[0]][key.split(".")[1]] for key in _FAMILY}
    wrong = [
        f"{key}={value!r} (there {_FAMILY[key][0]!r})"
        for key, value in values.items()
        if value not in _FAMILY[key]
    ]
    if model.ch_mult[0] != 1:
        wrong.append(f"model.ch_mult={model.ch_mult} (there it starts with 1)")
    widths = [model.nf * m for m in model.ch_mult]
    attend = _levels_with_attention(config)
    narrow = [w for w, a in zip(widths, attend, strict=True) if a and w < 4 * _NORM_GROUPS]
    if narrow:
        wrong.append(f"attention at {narrow[0]} channels (there at {4 * _NORM_GROUPS} or more)")
    if wrong:
        raise ValueError(
            "diffusers has no network that equals this config's; UNet2DModel is the NCSN++ with "
            f"skip connections through both pyramids, which differs in {'; '.join(wrong)}"
        )


def check_unet_config(found: Mapping[str, Any], config: Any) -> None:
    """Compares the `config.json` of a directory with the configured network.

    Raises:
      ValueError: if they differ; the message lists the differences.
    """
    wanted = get_unet_config(config)
    found = {key: wanted[key] for key in _LATER_FIELDS} | dict(found)
    wrong = [
        f"{key} is {found.get(key, '(absent)')!r}, the config has {value!r}"
        for key, value in wanted.items()
        if key not in found or not _same(found[key], value)
    ]
    if wrong:
        raise ValueError(f"config.json does not match the configured network; {'; '.join(wrong)}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, float):  # some files give the root of two to ten digits
        return isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-9)
    return a == b


def from_diffusers_state_dict(state_dict: Mapping[str, np.ndarray], config: Any) -> dict:
    """Converts the arrays of a `UNet2DModel`; attention may have its older names.

    Args:
      state_dict: names to arrays.
      config: describes the network.

    Returns:
      The parameter tree of the network, float32.

    Raises:
      ValueError: if names are missing or left over, or shapes differ; the message lists them.
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
        raise ValueError(f"the arrays do not match the configured network; {listed}")
    torch = {names[name]: _switch(names[name], value) for name, value in arrays.items()}
    return from_torch_state_dict(torch, config)


def to_diffusers_state_dict(params: Mapping, config: Any) -> dict[str, np.ndarray]:
    """Converts our parameters to the arrays of a `UNet2DModel`.

    Args:
      params: the parameter tree of the network.
      config: describes the network.

    Returns:
      Names to float32 arrays.

    Raises:
      ValueError: if diffusers has no such network, or the tree does not match the config.
    """
    _check_family(config)
    torch = to_torch_state_dict(params, config)
    return {
        name: np.ascontiguousarray(_switch(source, torch[source]))
        for name, source in _names(config).items()
    }


def _names(config: Any) -> dict[str, str]:
    """Returns the names of the network's arrays: in diffusers -> in score_sde_pytorch."""
    levels = len(config.model.ch_mult)
    return {_name(path, levels): a.torch for path, a in published_names(config).items()}


def _name(path: Path, levels: int) -> str:
    """Returns the name in diffusers of one of our parameters."""
    module, *layers, leaf = path
    for pattern, theirs in _MODULES:
        if match := re.fullmatch(pattern, module):
            numbers = [int(n) for n in match.groups()]
            up = levels - 1 - numbers[0] if numbers else None
            parts = [theirs.format(*numbers, up=up), *(_LAYERS[layer] for layer in layers)]
            return ".".join([*parts, "bias" if leaf == "bias" else "weight"])
    raise ValueError(f"the parameter {'.'.join(path)} has no place in a UNet2DModel")


def _new_name(name: str) -> str:
    """Returns the current name of an array, which may be an older name of attention."""
    *parts, layer, leaf = name.split(".")
    return ".".join([*parts, _OLD_LAYERS.get(layer, layer), leaf]) if parts else name


def _switch(torch_name: str, value: np.ndarray) -> np.ndarray:
    """Transposes matrices that score_sde_pytorch has as (in, out) and diffusers as (out, in)."""
    return value.T if torch_name.endswith(".W") else value
