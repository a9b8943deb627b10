"""Names of the arrays of published networks: here, in score_sde_pytorch and in score_sde.

Here, parameters are named by their place in the network. score_sde_pytorch numbers the modules of a
U-Net in the order of their construction (`all_modules.4.Conv_0.weight`), and names the modules of a
RefineNet by attribute. score_sde numbers the modules of each class separately
(`ResnetBlockBigGANpp_0/Conv_0/kernel`). `get_layers` walks through a network once, in the order of
PyTorch's state dict, and gives all three names.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import flax.linen as nn

from scorax.models.ddpm import DDPM
from scorax.models.ncsnpp import NCSNpp
from scorax.models.ncsnv2 import NCSNv2


class Leaf(NamedTuple):
    """An array of a layer: its names in PyTorch and Flax, and the order of PyTorch's axes here.

    Four axes belong to a convolution kernel, which is OIHW in PyTorch and HWIO here and in Flax;
    here a 1x1 kernel has no H and W.
    """

    torch: str
    flax: str
    axes: tuple[int, ...]


class Layer(NamedTuple):
    """A layer with parameters: its names, and its arrays under our names.

    `ours` lists the names of the modules from the outermost to the innermost. `torch` ends with a
    dot, and `flax` with a slash.
    """

    ours: tuple[str, ...]
    torch: str
    flax: str
    leaves: Mapping[str, Leaf]

    def inside(self, ours: str, torch: str, flax: str) -> "Layer":
        """Returns the layer with names that include an outer module of these names."""
        return Layer((ours, *self.ours), torch + self.torch, flax + self.flax, self.leaves)


class Module(NamedTuple):
    """A module of a published U-Net: our name, the Flax class, and its layers.

    Resampling of a pyramid without a convolution is a numbered module in Flax, but not in PyTorch.
    """

    ours: str
    flax: str
    layers: tuple[Layer, ...]
    in_torch: bool = True


_BIAS = Leaf("bias", "bias", (0,))
_CONV = {"kernel": Leaf("weight", "kernel", (2, 3, 1, 0)), "bias": _BIAS}
_FIR = {"kernel": Leaf("weight", "weight", (2, 3, 1, 0)), "bias": _BIAS}
_DENSE = {"kernel": Leaf("weight", "kernel", (1, 0)), "bias": _BIAS}
_NIN = {"kernel": Leaf("W", "W", (0, 1)), "bias": Leaf("b", "b", (0,))}
_FOURIER = {"W": Leaf("W", "W", (0,))}
_EMBED = {"embedding": Leaf("embed.weight", "Embed_0/embedding", (0, 1))}
_PLUS = {name: Leaf(name, name, (0,)) for name in ("alpha", "gamma", "beta")}
_SCALE_AND_BIAS = {"scale": Leaf("weight", "scale", (0,)), "bias": _BIAS}
# model.normalization -> the Flax class and its arrays.
_NORMS = {
    "GroupNorm": ("GroupNorm", _SCALE_AND_BIAS),
    "InstanceNorm": ("InstanceNorm2d", _SCALE_AND_BIAS),
    "VarianceNorm": ("VarianceNorm2d", {"scale": Leaf("alpha", "scale", (0,))}),
    "InstanceNorm++": ("InstanceNorm2dPlus", _PLUS),
}


def get_layers(network: nn.Module, height: int) -> Iterator[Layer]:
    """Yields the layers of a published network that may have parameters, in PyTorch's order.

    Args:
      network: the module, without parameters.
      height: image height in pixels, which decides where a U-Net has attention.

    Raises:
      ValueError: for a network that score_sde does not have.
    """
    if isinstance(network, NCSNv2):
        yield from _refinenet_layers(network)
    elif isinstance(network, (DDPM, NCSNpp)):
        yield from _numbered(_unet_modules(network, height))
    else:
        raise ValueError(
            f"score_sde has no network like {type(network).__name__}, and no names for its "
            "parameters; set model.name to a network of score_sde, such as 'ncsnpp' or 'ddpm'"
        )


def _numbered(modules: Iterator[Module]) -> Iterator[Layer]:
    index, of_class = 0, Counter()
    for module in modules:
        torch, flax = f"all_modules.{index}.", f"{module.flax}_{of_class[module.flax]}/"
        for layer in module.layers:
            yield layer.inside(module.ours, torch, flax)
        index += module.in_torch
        of_class[module.flax] += 1


def _layer(ours: str, name: str, leaves: Mapping[str, Leaf]) -> Layer:
    """Returns a layer that has the same name in PyTorch and Flax."""
    return Layer((ours,), f"{name}.", f"{name}/", leaves)


def _whole(ours: str, flax: str, leaves: Mapping[str, Leaf]) -> Module:
    """Returns a module that consists of one layer."""
    return Module(ours, flax, (Layer((), "", "", leaves),))


def _unet_modules(network: NCSNpp | DDPM, height: int) -> Iterator[Module]:
    """Yields the modules of NCSN++, DDPM++ and DDPM in the order of `all_modules`."""
    levels = len(network.ch_mult)
    attend = [height // 2**i in network.attn_resolutions for i in range(levels)]
    parts = _UNetParts(network)
    if parts.fourier:
        yield _whole("time_fourier", "GaussianFourierProjection", _FOURIER)
    if network.conditional:
        yield _whole("time_dense_0", "Dense", _DENSE)
        yield _whole("time_dense_1", "Dense", _DENSE)
    yield _whole("conv_in", "Conv", _CONV)
    for i in range(levels):
        for j in range(network.num_res_blocks):
            yield parts.block(f"down_{i}_block_{j}")
            if attend[i]:
                yield parts.attention(f"down_{i}_attn_{j}")
        if i < levels - 1:
            yield parts.resample(f"down_{i}_downsample", "Downsample")
            yield from parts.join_input(f"down_{i}_")
    yield parts.block("mid_block_0")
    yield parts.attention("mid_attn")
    yield parts.block("mid_block_1")
    for i in reversed(range(levels)):
        for j in range(network.num_res_blocks + 1):
            yield parts.block(f"up_{i}_block_{j}")
        if attend[i]:
            yield parts.attention(f"up_{i}_attn")
        yield from parts.join_output(f"up_{i}_", first=i == levels - 1)
        if i > 0:
            yield parts.resample(f"up_{i}_upsample", "Upsample")
    if parts.progressive != "output_skip":
        yield from parts.head("")


class _UNetParts:
    """The repeated modules of a U-Net, according to its settings."""

    def __init__(self, network: NCSNpp | DDPM) -> None:
        pp = isinstance(network, NCSNpp)
        self.suffix = "pp" if pp else ""
        self.ddpm = not pp or network.resblock_type == "ddpm"
        self.fourier = pp and network.embedding_type == "fourier"
        self.progressive = network.progressive if pp else "none"
        self.progressive_input = network.progressive_input if pp else "none"
        self.norm, self.norm_leaves = _NORMS["GroupNorm" if pp else network.normalization]
        if pp and network.fir:
            self.resampling = _layer("conv", "Conv2d_0", _FIR)
        else:
            self.resampling = _layer("conv", "Conv_0", _CONV)

    def block(self, ours: str) -> Module:
        if self.ddpm:
            shortcut = _layer("shortcut", "NIN_0", _NIN)
        else:
            shortcut = _layer("shortcut", "Conv_2", _CONV)
        layers = (
            _layer("norm_0", f"{self.norm}_0", self.norm_leaves),
            _layer("conv_0", "Conv_0", _CONV),
            _layer("temb", "Dense_0", _DENSE),
            _layer("norm_1", f"{self.norm}_1", self.norm_leaves),
            _layer("conv_1", "Conv_1", _CONV),
            shortcut,
        )
        kind = "DDPM" if self.ddpm else "BigGAN"
        return Module(ours, f"ResnetBlock{kind}{self.suffix}", layers)

    def attention(self, ours: str) -> Module:
        products = (_layer(n, f"NIN_{i}", _NIN) for i, n in enumerate(("q", "k", "v", "out")))
        norm = _layer("norm", f"{self.norm}_0", self.norm_leaves)
        return Module(ours, f"AttnBlock{self.suffix}", (norm, *products))

    def resample(self, ours: str, flax: str) -> Module:
        return Module(ours, flax, (self.resampling,)) if self.ddpm else self.block(ours)

    def head(self, prefix: str) -> Iterator[Module]:
        yield _whole(f"{prefix}out_norm", self.norm, self.norm_leaves)
        yield _whole(f"{prefix}out_conv", "Conv", _CONV)

    def join_input(self, prefix: str) -> Iterator[Module]:
        if self.progressive_input == "input_skip":
            yield Module("", "Downsample", (), in_torch=False)
            combine = Layer((), "Conv_0.", "Conv_0/", _CONV)
            yield Module(f"{prefix}combine", "Combine", (combine,))
        elif self.progressive_input == "residual":
            yield Module(f"{prefix}pyramid", "Downsample", (self.resampling,))

    def join_output(self, prefix: str, first: bool) -> Iterator[Module]:
        if self.progressive == "output_skip" and not first:
            yield Module("", "Upsample", (), in_torch=False)
        if self.progressive == "residual" and not first:
            yield Module(f"{prefix}pyramid", "Upsample", (self.resampling,))
        elif self.progressive != "none":
            yield from self.head(prefix)


def _refinenet_layers(network: NCSNv2) -> Iterator[Layer]:
    """Yields the layers of NCSN and NCSNv2 in the order of PyTorch's attributes."""
    norm, leaves = _NORMS[network.normalization]
    if network.conditional:
        norm, leaves = f"Conditional{norm}", _EMBED
    block = "ConditionalResidualBlock" if network.conditional else "ResidualBlock"
    prefix = "Cond" if network.conditional else ""
    depth = len(network.stages)
    # PyTorch uses the number 31 for the stage that only the deepest network has, down and up.
    down = ("1", "2", "3", "31", "4", "5") if depth == 6 else tuple("12345")
    up = ("1", "2", "31", "3", "4", "5") if depth == 6 else tuple("12345")
    yield Layer(("conv_in",), "begin_conv.", "Conv_0/", _CONV)
    yield Layer(("out_norm",), "normalizer.", f"{norm}_0/", leaves)
    yield Layer(("out_conv",), "end_conv.", "Conv_1/", _CONV)
    for i, (_, dilation) in enumerate(network.stages):
        for j in range(2):
            pool = i > 0 and j == 0 and dilation == 1
            for layer in _residual_layers(norm, leaves, pool):
                yield layer.inside(
                    f"down_{i}_block_{j}", f"res{down[i]}.{j}.", f"{block}_{2 * i + j}/"
                )
    for k, number in enumerate(up[:depth]):
        units = 3 if k == depth - 1 else 1
        for layer in _refine_layers(norm, leaves, prefix, 1 if k == 0 else 2, units):
            yield layer.inside(
                f"up_{depth - 1 - k}", f"refine{number}.", f"{prefix}RefineBlock_{k}/"
            )


def _residual_layers(norm: str, leaves: Mapping[str, Leaf], pool: bool) -> Iterator[Layer]:
    inner = "conv." if pool else ""
    conv_1, shortcut = (
        ("ConvMeanPool_0/Conv_0/", "ConvMeanPool_1/Conv_0/") if pool else ("Conv_1/", "Conv_2/")
    )
    yield Layer(("conv_0",), "conv1.", "Conv_0/", _CONV)
    yield Layer(("norm_1",), "normalize2.", f"{norm}_1/", leaves)
    yield Layer(("conv_1",), f"conv2.{inner}", conv_1, _CONV)
    yield Layer(("shortcut",), f"shortcut.{inner}", shortcut, _CONV)
    yield Layer(("norm_0",), "normalize1.", f"{norm}_0/", leaves)


def _refine_layers(
    norm: str, leaves: Mapping[str, Leaf], prefix: str, inputs: int, units: int
) -> Iterator[Layer]:
    chains = [(f"adapt_{a}", f"adapt_convs.{a}.", 2) for a in range(inputs)]
    chains.append(("output", "output_convs.", units))
    for a, (ours, torch, count) in enumerate(chains):
        for c in range(2 * count):
            place = f"{torch}{c // 2 + 1}_{c % 2 + 1}_"
            flax = f"{prefix}RCUBlock_{a}/"
            yield Layer((ours, f"norm_{c}"), f"{place}norm.", f"{flax}{norm}_{c}/", leaves)
            yield Layer((ours, f"conv_{c}"), f"{place}conv.", f"{flax}Conv_{c}/", _CONV)
    for ours, torch, flax in (("fusion", "msf", "MSFBlock"), ("pooling", "crp", "CRPBlock")):
        for c in range(2):
            place = f"{prefix}{flax}_0/Conv_{c}/"
            yield Layer((ours, f"conv_{c}"), f"{torch}.convs.{c}.", place, _CONV)
        for c in range(2):
            place = f"{prefix}{flax}_0/{norm}_{c}/"
            yield Layer((ours, f"norm_{c}"), f"{torch}.norms.{c}.", place, leaves)
