"""Schedules of score-based data assimilation: how signal and noise depend on time.

x_t = mu(t) x_0 + sigma(t) z for 0 <= t <= 1, with a signal mu that falls from 1 to eta and a noise
sigma that grows from eta to about 1. Source: Rozet & Louppe 2023 (arXiv 2306.10574) and their code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Pair = tuple[jax.Array, jax.Array]


class Signal(NamedTuple):
    """How the signal mu falls from 1 at t = 0 to eta at t = 1; all functions of (eta, argument).

    Attributes:
      mu: t -> mu.
      lost: t -> 1 - mu, which does not cancel near t = 0.
      rate: t -> -(log mu)'.
      time: (mu, 1 - mu) -> t.
    """

    mu: Callable[[float, jax.Array], jax.Array]
    lost: Callable[[float, jax.Array], jax.Array]
    rate: Callable[[float, jax.Array], jax.Array]
    time: Callable[[float, jax.Array, jax.Array], jax.Array]


def _cosine_rate(eta: float) -> float:
    return math.acos(math.sqrt(eta))


SIGNALS = {
    "cos": Signal(
        lambda eta, t: jnp.cos(_cosine_rate(eta) * t) ** 2,
        lambda eta, t: jnp.sin(_cosine_rate(eta) * t) ** 2,
        lambda eta, t: 2 * _cosine_rate(eta) * jnp.tan(_cosine_rate(eta) * t),
        lambda eta, mu, lost: jnp.arctan2(jnp.sqrt(lost), jnp.sqrt(mu)) / _cosine_rate(eta),
    ),
    "lin": Signal(
        lambda eta, t: 1 - (1 - eta) * t,
        lambda eta, t: (1 - eta) * t,
        lambda eta, t: (1 - eta) / (1 - (1 - eta) * t),
        lambda eta, mu, lost: lost / (1 - eta),
    ),
    "exp": Signal(
        lambda eta, t: jnp.exp(math.log(eta) * t**2),
        lambda eta, t: -jnp.expm1(math.log(eta) * t**2),
        lambda eta, t: -2 * math.log(eta) * t,
        lambda eta, mu, lost: jnp.sqrt(
            jnp.where(lost < 0.5, jnp.log1p(-jnp.minimum(lost, 0.5)), jnp.log(mu)) / math.log(eta)
        ),
    ),
}


class Noise(NamedTuple):
    """How the noise sigma grows as the signal mu falls; all functions of (eta, ...).

    Attributes:
      sigma: (mu, 1 - mu) -> sigma.
      growth: (mu, sigma) -> sigma sigma' / rate, where rate = -(log mu)'.
      signal: ratio mu / sigma -> (mu, 1 - mu).
    """

    sigma: Callable[[float, jax.Array, jax.Array], jax.Array]
    growth: Callable[[jax.Array, jax.Array], jax.Array]
    signal: Callable[[float, jax.Array], Pair]


def _vp_signal(eta: float, log_snr: jax.Array) -> Pair:
    total = 1 + eta**2  # mu^2 + sigma^2
    mu = jnp.sqrt(total * jax.nn.sigmoid(log_snr))
    return mu, (total * jax.nn.sigmoid(-log_snr) - eta**2) / (1 + mu)


def _subvp_signal(eta: float, log_snr: jax.Array) -> Pair:
    """The solution of q mu^2 + mu = q (1 + eta), where q = mu / sigma."""
    q, total = jnp.exp(log_snr / 2), 1 + eta
    sigma = 2 * total / (1 + jnp.sqrt(1 + 4 * q**2 * total))
    return q * sigma, (sigma - eta) / (1 + q * sigma)


def _subsubvp_signal(eta: float, log_snr: jax.Array) -> Pair:
    """The solution of mu = q (1 + eta - mu), where q = mu / sigma."""
    sigma = (1 + eta) * jax.nn.sigmoid(-log_snr / 2)
    return jnp.exp(log_snr / 2) * sigma, sigma - eta


NOISES = {
    "vp": Noise(
        lambda eta, mu, lost: jnp.sqrt(lost * (1 + mu) + eta**2),
        lambda mu, sigma: mu**2,
        _vp_signal,
    ),
    "subvp": Noise(
        lambda eta, mu, lost: lost * (1 + mu) + eta,
        lambda mu, sigma: 2 * mu**2 * sigma,
        _subvp_signal,
    ),
    "subsubvp": Noise(
        lambda eta, mu, lost: lost + eta,
        lambda mu, sigma: mu * sigma,
        _subsubvp_signal,
    ),
}
