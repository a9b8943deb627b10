"""The tasks "encode" and "interpolate": the latent space of the probability-flow ODE."""

from collections.abc import Callable

import numpy as np

from scorax.datasets import get_source
from scorax.evaluators.context import Numbers, TaskContext, mean_nfe
from scorax.experiment import Experiment
from scorax.metrics import image_pairs
from scorax.solvers import probability_flow
from scorax.utils import images
from scorax.utils.options import configured
from scorax.utils.rounds import Arrays


def get_codec(experiment: Experiment) -> tuple[Callable, Callable]:
    """The encoder and the decoder of the config's probability-flow ODE."""
    rows = probability_flow.get_encoder, probability_flow.get_decoder
    return tuple(row(experiment.sde, **configured(row, experiment.config)) for row in rows)


def check_interpolate(experiment: Experiment) -> None:
    """Builds the codec, and checks that there are two images."""
    get_codec(experiment)
    split = experiment.config.eval.split
    if len(get_source(experiment.config, split)) < 2:
        raise ValueError(
            f"the task interpolate needs two images, but the {split} split has one; add another, "
            "or leave the task out"
        )


def evaluate_encode(context: TaskContext) -> Numbers:
    """Encodes images into latents by the probability-flow ODE, and back: `encode.{npz,png}`.

    The archive holds "images" and "reconstructions": uint8 (N, H, W, C), and "latents": float32
    (N, H, W, C), which should look like draws from N(0, prior_std^2). The picture shows the
    reconstructions below the originals.
    """
    n = min(context.config.eval.num_encoded, len(context.source))
    encode, decode = map(context.compile, get_codec(context.experiment))

    def one(i: int) -> Arrays:
        x = context.read(context.source, context.positions(i, len(context.source)))
        z, there = encode(context.to_model(x))
        y, back = decode(z)
        y = np.clip(context.to_data(y), 0, 1)
        arrays = {"images": x, "latents": z, "reconstructions": images.to_uint8(y)}
        arrays["psnr"] = image_pairs.psnr(y, images.to_float(x))
        return arrays | {"nfe_encode": np.array([there]), "nfe_decode": np.array([back])}

    arrays = context.show_rounds("encode", n, one)
    psnr, nfe_encode, nfe_decode = (arrays.pop(k) for k in ("psnr", "nfe_encode", "nfe_decode"))
    context.save_npz("encode.npz", **arrays)
    shown = min(n, 16)
    pair = [images.to_float(arrays[name][:shown]) for name in ("images", "reconstructions")]
    context.save_picture("encode.png", np.concatenate(pair), columns=shown)
    return {
        "split": context.config.eval.split,
        "num_encoded": n,
        "psnr": float(np.minimum(psnr, 100).mean()),  # equal images: 100, not infinity
        "nfe_encode": mean_nfe(nfe_encode),
        "nfe_decode": mean_nfe(nfe_decode),
        "latent_mean": float(arrays["latents"].mean(dtype=np.float64)),
        "latent_variance": float(arrays["latents"].var(dtype=np.float64)),
        "prior_variance": float(context.experiment.sde.prior_std) ** 2,
    }


def evaluate_interpolate(context: TaskContext) -> Numbers:
    """Interpolates between pairs of images in latent space: `interpolate.{npz,png}`.

    The archive holds "originals": uint8 (P, 2, H, W, C), their "latents": float32 of the same
    shape, the "weights" of the second image of each pair: (K,), and "images": uint8
    (P, K, H, W, C). The picture has a row for each pair.
    """
    e = context.config.eval
    pairs = min(e.num_pairs, len(context.source) // 2)
    originals = context.read(context.source, np.arange(2 * pairs))
    weights = np.linspace(0, 1, e.num_points, dtype=np.float32)
    encode, decode = map(context.compile, get_codec(context.experiment))

    def encode_one(i: int) -> Arrays:
        z, nfe = encode(context.to_model(originals[context.positions(i, len(originals))]))
        return {"latents": z, "nfe": np.array([nfe])}

    def decode_one(i: int) -> Arrays:
        x, nfe = decode(ways[context.positions(i, len(ways))])
        return {"images": images.to_uint8(context.to_data(x)), "nfe": np.array([nfe])}

    encoded = context.show_rounds("encode", len(originals), encode_one)
    latents = encoded["latents"].reshape(pairs, 2, *originals.shape[1:])
    ways = [np.asarray(probability_flow.interpolate(a, b, weights)) for a, b in latents]
    ways = np.concatenate(ways)
    decoded = context.show_rounds("decode", len(ways), decode_one)
    x = decoded["images"]
    context.save_npz(
        "interpolate.npz",
        originals=originals.reshape(latents.shape),
        latents=latents,
        weights=weights,
        images=x.reshape(pairs, e.num_points, *x.shape[1:]),
    )
    context.save_picture("interpolate.png", x, columns=e.num_points)
    return {
        "split": e.split,
        "num_pairs": pairs,
        "num_points": e.num_points,
        "nfe_encode": mean_nfe(encoded["nfe"]),
        "nfe_decode": mean_nfe(decoded["nfe"]),
    }
