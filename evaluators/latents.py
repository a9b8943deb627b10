"""The tasks "encode" and "interpolate": images in the latent space of the probability-flow ODE."""

from collections.abc import Callable

import numpy as np

from scorax.evaluators.context import Numbers, Work, mean_nfe
from scorax.experiment import Experiment
from scorax.metrics import image_pairs
from scorax.solvers import probability_flow
from scorax.utils import images
from scorax.utils.rounds import Arrays


def get_codec(experiment: Experiment) -> tuple[Callable, Callable]:
    """The encoder and the decoder of the config's probability-flow ODE."""
    config = experiment.config
    settings = probability_flow.get_integrator_settings(config)
    build = probability_flow.get_encoder, probability_flow.get_decoder
    return tuple(get(experiment.sde, **settings, eps=config.sampling.eps or None) for get in build)


def evaluate_encode(work: Work) -> Numbers:
    """Images through the probability-flow ODE into latents and back: `encode.{npz,png}`.

    The archive holds "images" and "reconstructions": uint8 (N, H, W, C), and "latents": float32
    (N, H, W, C), which should look like draws from N(0, prior_std^2). The picture has the
    reconstructions under the originals.
    """
    n = min(work.config.eval.num_encoded, len(work.source))
    encode, decode = map(work.compile, get_codec(work.experiment))

    def one(i: int) -> Arrays:
        x = work.read(work.source, work.positions(i, len(work.source)))
        z, there = encode(work.to_model(x))
        y, back = decode(z)
        y = np.clip(work.to_unit(y), 0, 1)
        arrays = {"images": x, "latents": z, "reconstructions": images.to_uint8(y)}
        arrays["psnr"] = image_pairs.psnr(y, x.astype(np.float32) / 255)
        return arrays | {"nfe_encode": np.array([there]), "nfe_decode": np.array([back])}

    arrays = work.show_rounds("encode", n, one)
    psnr, nfe_encode, nfe_decode = (arrays.pop(k) for k in ("psnr", "nfe_encode", "nfe_decode"))
    work.save_npz("encode.npz", **arrays)
    shown = min(n, 16)
    pair = arrays["images"][:shown], arrays["reconstructions"][:shown]
    work.save_grid("encode.png", np.concatenate(pair), columns=shown)
    return {
        "split": work.config.eval.split,
        "num_encoded": n,
        "psnr": float(np.minimum(psnr, 100).mean()),  # equal images: 100, not infinity
        "nfe_encode": mean_nfe(nfe_encode),
        "nfe_decode": mean_nfe(nfe_decode),
        "latent_mean": float(arrays["latents"].mean(dtype=np.float64)),
        "latent_variance": float(arrays["latents"].var(dtype=np.float64)),
        "prior_variance": float(work.experiment.sde.prior_std) ** 2,
    }


def evaluate_interpolate(work: Work) -> Numbers:
    """Ways between two images, through latent space: `interpolate.{npz,png}`, a row each.

    The archive holds "originals": uint8 (P, 2, H, W, C), their "latents": float32 of that shape,
    the "weights": (K,) of the second one, and "images": uint8 (P, K, H, W, C).
    """
    e = work.config.eval
    pairs = min(e.num_pairs, len(work.source) // 2)
    originals = work.read(work.source, np.arange(2 * pairs))
    weights = np.linspace(0, 1, e.num_points, dtype=np.float32)
    encode, decode = map(work.compile, get_codec(work.experiment))

    def encode_one(i: int) -> Arrays:
        z, nfe = encode(work.to_model(originals[work.positions(i, len(originals))]))
        return {"latents": z, "nfe": np.array([nfe])}

    def decode_one(i: int) -> Arrays:
        x, nfe = decode(ways[work.positions(i, len(ways))])
        return {"images": images.to_uint8(work.to_unit(x)), "nfe": np.array([nfe])}

    encoded = work.show_rounds("encode", len(originals), encode_one)
    latents = encoded["latents"].reshape(pairs, 2, *originals.shape[1:])
    ways = [np.asarray(probability_flow.interpolate(a, b, weights)) for a, b in latents]
    ways = np.concatenate(ways)
    decoded = work.show_rounds("decode", len(ways), decode_one)
    x = decoded["images"]
    work.save_npz(
        "interpolate.npz",
        originals=originals.reshape(latents.shape),
        latents=latents,
        weights=weights,
        images=x.reshape(pairs, e.num_points, *x.shape[1:]),
    )
    work.save_grid("interpolate.png", x, columns=e.num_points)
    return {
        "split": e.split,
        "num_pairs": pairs,
        "num_points": e.num_points,
        "nfe_encode": mean_nfe(encoded["nfe"]),
        "nfe_decode": mean_nfe(decoded["nfe"]),
    }
