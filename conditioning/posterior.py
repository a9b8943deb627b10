"""Conditioning a score on a measurement y = A(x) + noise: `ScoreFn -> ScoreFn`.

    grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)                     (Bayes)
    x_hat(x_t) = E[x_0 | x_t] = (x_t + sigma^2 score) / mu                          (Tweedie)
    p(y | x_t) ~ N(A(x_hat), Sigma),   Sigma = std^2 I + A Cov(x_0 | x_t) A^T       (1)
    grad log p(y | x_t) ~ (d x_hat / d x_t)^T A^T Sigma^-1 (y - A(x_hat))           (2)

(1) is exact for Gaussian data and linear A, because x_0 given x_t is then Gaussian. In Sigma and
(2), a nonlinear A is replaced by its linearisation at x_hat. The methods differ only in Sigma:

  GaussianLikelihood   std^2 + gamma (sigma / mu)^2, or a known covariance
  DPS                  the norm of the residual in place of Sigma
  PiGDM                Cov(x_0 | x_t) = r(t)^2 I
  MMPS                 Cov(x_0 | x_t) = sigma^2 / mu (d x_hat / d x_t), computed from the score

Each method is a callable that takes the score of x_t, works with every SDE and sampler, and treats
each example of a batch on its own. A guided score costs a forward and a backward pass of the score;
MMPS adds one backward pass for each iteration.

Sources: Rozet & Louppe, "Score-based Data Assimilation", 2023 (arXiv 2306.10574); Chung et al.,
"Diffusion Posterior Sampling for General Noisy Inverse Problems", 2023 (arXiv 2209.14687); Song et
al., "Pseudoinverse-Guided Diffusion Models for Inverse Problems", 2023; Rozet et al., "Learning
Diffusion Priors from Observations by Expectation Maximization", 2024 (arXiv 2405.13712).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scorax.sde_lib import SDE, ScoreFn
from scorax.utils.arrays import batch_mul, example_norm, expand_like
from scorax.utils.options import Option

# A function of a batch, (B, *S) -> (B, *Y)
Map = Callable[[jax.Array], jax.Array]


class Linearisation(NamedTuple):
    """What a method knows about the measurement at a state x_t.

    Attributes:
      residual: y - A(x_hat): (B, *Y).
      t, mu, sigma: time and coefficients of the perturbation kernel, (B,).
      push: A, linearised at x_hat, (B, *S) -> (B, *Y).
      pull: transpose of `push`, (B, *Y) -> (B, *S).
      pull_denoiser: transpose of the denoiser's Jacobian d x_hat / d x_t, (B, *S) -> (B, *S).
    """

    residual: jax.Array
    t: jax.Array
    mu: jax.Array
    sigma: jax.Array
    push: Map
    pull: Map
    pull_denoiser: Map


@dataclasses.dataclass(frozen=True, eq=False)
class MeasurementLikelihood(abc.ABC):
    """A measurement, and how much a method trusts its prediction from the denoised state.

    Attributes:
      sde: the SDE of the score.
      operator: A, (B, *S) -> (B, *Y), any JAX function.
      y: the measurement (B, *Y), or (1, *Y) for many samples given one measurement.
      std: standard deviation of its noise: a number, or an array like y with one for each measured
        value.
    """

    sde: SDE
    operator: Map
    y: jax.Array
    std: float | jax.Array

    def __post_init__(self) -> None:
        _check_range("std", self.std, lambda std: std > 0, "positive")

    @abc.abstractmethod
    def weigh(self, at: Linearisation) -> jax.Array:
        """Sigma^-1 (y - A(x_hat)) of eq. 2: (B, *Y)."""

    def denoise(self, score_fn: ScoreFn, x: jax.Array, t: jax.Array) -> tuple:
        """x_hat: (B, *S), and the score from which it was computed."""
        mu, sigma = self.sde.marginal_coeffs(t)
        score = score_fn(x, t)
        return batch_mul(1 / mu, x + batch_mul(sigma**2, score)), score

    def __call__(self, score_fn: ScoreFn) -> ScoreFn:
        """The score given the measurement.

        Raises:
          ValueError: when the guided score is traced, if y does not have the shape of A(x).
        """

        def guided(x: jax.Array, t: jax.Array) -> jax.Array:
            check_measurement(self.operator, x, self.y)
            x_hat, pull_denoiser, score = jax.vjp(
                lambda x: self.denoise(score_fn, x, t), x, has_aux=True
            )
            y_hat, push = jax.linearize(self.operator, x_hat)
            pull = jax.linear_transpose(push, x_hat)
            at = Linearisation(
                self.y - y_hat,
                t,
                *self.sde.marginal_coeffs(t),
                push,
                lambda v: pull(v)[0],
                lambda v: pull_denoiser(v)[0],
            )
            return score + at.pull_denoiser(at.pull(self.weigh(at)))

        return guided

    def noise_variance(self) -> jax.Array:
        """std^2, broadcastable against y."""
        return _like_measurement(self.std, self.y) ** 2


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianLikelihood(MeasurementLikelihood):
    """Variance std^2 + gamma (sigma / mu)^2 (Rozet & Louppe 2023).

    gamma stands for A Cov(x_0 | x_t) A^T in units of (sigma / mu)^2. For data of variance v and
    A = I the true value is v / (v + (sigma / mu)^2), which falls from 1 at low noise to 0, so no
    single number is right. With gamma = 0.5, Gaussian data of about unit variance and A A^T = I,
    the mean of samples is off by at most a quarter of the posterior's standard deviation, and their
    covariance by at most a quarter. A smaller gamma follows y more closely and gives too little
    spread.

    Attributes:
      gamma: a number, or an array like y with one for each measured value.
      detach: do not differentiate through the score, which is cheaper and less exact.
      covariance: t: (B,) -> the full A Cov(x_0 | x_t) A^T: (B, M, M) for the M = prod(Y) measured
        values, used instead of gamma; see `gaussian_data_covariance`.
    """

    gamma: Annotated[float | jax.Array, Option("eval.gamma", power=-2)] = 1e-2
    detach: bool = False
    covariance: Callable[[jax.Array], jax.Array] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("gamma", self.gamma, lambda gamma: gamma >= 0, "at least 0")

    def denoise(self, score_fn: ScoreFn, x: jax.Array, t: jax.Array) -> tuple:
        if not self.detach:
            return super().denoise(score_fn, x, t)
        score = lax.stop_gradient(score_fn(x, t))
        return super().denoise(lambda x, t: score, x, t)

    def weigh(self, at: Linearisation) -> jax.Array:
        if self.covariance is None:
            ratio = expand_like((at.sigma / at.mu) ** 2, at.residual)
            spread = _like_measurement(self.gamma, self.y) * ratio
            return at.residual / (self.noise_variance() + spread)
        residual = at.residual.reshape(len(at.t), -1)
        noise = jnp.broadcast_to(self.noise_variance(), at.residual.shape).reshape(residual.shape)
        sigma = self.covariance(at.t) + jax.vmap(jnp.diag)(noise)
        solved = jnp.linalg.solve(sigma, residual[:, :, None])
        return solved.reshape(at.residual.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class DPS(MeasurementLikelihood):
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1), as a score.

    Adds -zeta grad |y - A(x_hat)|^2 / |y - A(x_hat)|, which does not depend on std. In the paper
    the gradient is a separate step. Here, as in the comparison of Rozet & Louppe 2023, it is part
    of the score, so the sampler scales it along with the rest of the score.

    Attributes:
      zeta: strength of the guidance.
      coupled: take one norm over the whole batch, as published by Rozet & Louppe; each sample then
        depends on the others.
    """

    zeta: Annotated[float, Option("eval.zeta")] = 1.0
    coupled: bool = False

    def weigh(self, at: Linearisation) -> jax.Array:
        norm = example_norm(at.residual)
        if self.coupled:
            norm = jnp.full_like(norm, jnp.linalg.norm(norm))
        return batch_mul(2 * self.zeta / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny), at.residual)


@dataclasses.dataclass(frozen=True, eq=False)
class PiGDM(MeasurementLikelihood):
    """Pseudoinverse-guided diffusion (Song et al. 2023), exact for data N(m, v I).

    Cov(x_0 | x_t) = r^2 I with r^2 = v sigma^2 / (mu^2 v + sigma^2); the paper has v = 1.

    Attributes:
      data_variance: v.
      iterations: number of GMRES iterations that invert Sigma; one is enough if A A^T
        is a multiple of I.
    """

    data_variance: Annotated[float, Option("eval.data_variance", power=2)] = 1.0
    iterations: Annotated[int, Option("eval.likelihood_iterations", unset=0)] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("data_variance", self.data_variance, lambda v: v > 0, "positive")
        _check_range("iterations", self.iterations, lambda n: n >= 1, "at least 1")

    def weigh(self, at: Linearisation) -> jax.Array:
        v, noise = self.data_variance, self.noise_variance()
        r2 = v * at.sigma**2 / (at.mu**2 * v + at.sigma**2)

        def covariance(w: jax.Array) -> jax.Array:
            return noise * w + at.push(batch_mul(r2, at.pull(w)))

        return _gmres(covariance, at.residual, self.iterations)


@dataclasses.dataclass(frozen=True, eq=False)
class MMPS(MeasurementLikelihood):
    """Moment-matching posterior sampling (Rozet et al. 2024).

    Cov(x_0 | x_t) = sigma^2 / mu (d x_hat / d x_t) is the second-order Tweedie formula. Sigma is
    inverted by GMRES, and each iteration takes one backward pass of the score. The result is exact
    for Gaussian data and linear A after as many iterations as there are measured values.

    Attributes:
      iterations: number of GMRES iterations. A few are enough in practice; where the Jacobian of
        the network is inaccurate, one can be better than more.
    """

    iterations: Annotated[int, Option("eval.likelihood_iterations", unset=0)] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("iterations", self.iterations, lambda n: n >= 1, "at least 1")

    def weigh(self, at: Linearisation) -> jax.Array:
        noise = self.noise_variance()

        def covariance(w: jax.Array) -> jax.Array:
            spread = batch_mul(at.sigma**2 / at.mu, at.pull_denoiser(at.pull(w)))
            return noise * w + at.push(spread)

        return _gmres(covariance, at.residual, self.iterations)


def check_measurement(operator: Map, x: jax.Array, y: jax.Array) -> None:
    """Checks, without computing A(x), that its shape is y's; y may be one example for the batch.

    Raises:
      ValueError: if A cannot take x: (B, *S), or y does not have the shape of A's output.
    """
    try:
        shape = jax.eval_shape(operator, x).shape
    except (TypeError, ValueError) as error:
        raise ValueError(f"the operator cannot take x of shape {x.shape}: {error}") from error
    if y.shape not in (shape, (1, *shape[1:])):
        raise ValueError(
            f"the measurement y has shape {y.shape}, but the operator turns x of shape {x.shape} "
            f"into {shape}; give a y measured with this operator on images of this size"
        )


def gaussian_data_covariance(
    sde: SDE, covariance: np.ndarray, matrix: np.ndarray
) -> Callable[[jax.Array], jax.Array]:
    """A Cov(x_0 | x_t) A^T for data with known covariance C; exact for Gaussian data.

    Cov(x_0 | x_t) = (C^-1 + mu^2 / sigma^2 I)^-1 is computed along the eigenvectors of C.

    Args:
      sde: the SDE of the score.
      covariance: C, (D, D) for the D = prod(S) values of an example.
      matrix: the matrix of A, (M, D).

    Returns:
      The attribute `covariance` of a `GaussianLikelihood`: t: (B,) -> (B, M, M).
    """
    values, vectors = np.linalg.eigh(covariance)
    values = jnp.asarray(np.maximum(values, 0)[None], jnp.float32)
    projected = jnp.asarray((matrix @ vectors)[None], jnp.float32)

    def of_time(t: jax.Array) -> jax.Array:
        mu, sigma = (c[:, None] for c in sde.marginal_coeffs(t))
        spread = values * sigma**2 / (mu**2 * values + sigma**2)
        scaled = projected * jnp.sqrt(spread)[:, None]
        return jnp.einsum("bmk,bnk->bmn", scaled, scaled, precision="highest")

    return of_time


def _gmres(matrix: Map, b: jax.Array, iterations: int) -> jax.Array:
    """Solves matrix(w) = b for each example of b: (B, *Y), by GMRES (Saad & Schultz 1986).

    After m iterations, w minimises |b - matrix(w)| over the span of b, matrix(b), ... up to m
    vectors. The matrix need not be symmetric. The Jacobian of a network is symmetric and positive
    only by and large, so that conjugate gradients would divide by curvatures near 0.
    jax.scipy.sparse.linalg.gmres would treat the batch as one large system.
    """
    count, shape, size = len(b), b.shape, iterations
    tiny = 10 * jnp.finfo(b.dtype).eps

    def normalise(v: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        """v: (B, M) at norm 1, and its norm; 0 if that is no more than rounding of `scale`."""
        norm = jnp.linalg.norm(v, axis=1)
        norm = jnp.where(norm > tiny * scale, norm, 0)
        return batch_mul(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), v), norm

    def step(j: int, carry: tuple) -> tuple:
        basis, upper = carry
        v = matrix(basis[:, j].reshape(shape)).reshape(count, -1)
        scale = jnp.linalg.norm(v, axis=1)
        column = jnp.zeros((count, size + 1), b.dtype)
        for _ in range(2):  # the second time against rounding
            part = jnp.einsum("bim,bm->bi", basis, v, precision="highest")
            v = v - jnp.einsum("bim,bi->bm", basis, part, precision="highest")
            column = column + part
        v, norm = normalise(v, scale)
        solved = 1 - jnp.sum(basis[:, j] ** 2, 1).round()  # 1 keeps the triangle regular
        column = column.at[:, j].add(solved).at[:, j + 1].set(norm)
        return basis.at[:, j + 1].set(v), upper.at[:, :, j].set(column)

    flat = b.reshape(count, -1)
    first, norm = normalise(flat, jnp.zeros(count, b.dtype))
    basis = jnp.zeros((count, size + 1, flat.shape[1]), b.dtype).at[:, 0].set(first)
    upper = jnp.zeros((count, size + 1, size), b.dtype)
    basis, upper = lax.fori_loop(0, size, step, (basis, upper))
    target = jnp.zeros((count, size + 1, 1), b.dtype).at[:, 0, 0].set(norm)
    weights = _solve_hessenberg(upper, target)
    return jnp.einsum("bim,bi->bm", basis[:, :-1], weights, precision="highest").reshape(shape)


def _solve_hessenberg(upper: jax.Array, target: jax.Array) -> jax.Array:
    """The least-squares solution (B, N) of upper: (B, N + 1, N) against target: (B, N + 1, 1).

    By Givens rotations of neighbouring rows, in place of a batched QR decomposition of LAPACK,
    which waits for ever on the CPU when several virtual devices run it at once (jaxlib 0.10).
    """
    size = upper.shape[2]

    def rotate(j: int, rows: jax.Array) -> jax.Array:
        pair = lax.dynamic_slice_in_dim(rows, j, 2, axis=1)
        a, b = pair[:, 0, j], pair[:, 1, j]
        length = jnp.hypot(a, b)
        length = jnp.where(length > 0, length, 1)
        cos, sin = a / length, b / length
        turn = jnp.stack([jnp.stack([cos, sin], 1), jnp.stack([-sin, cos], 1)], 1)
        turned = jnp.einsum("bij,bjk->bik", turn, pair, precision="highest")
        return lax.dynamic_update_slice_in_dim(rows, turned, j, axis=1)

    def substitute(k: int, weights: jax.Array) -> jax.Array:
        i = size - 1 - k
        rest = rows[:, i, -1] - jnp.sum(rows[:, i, :-1] * weights, 1)
        pivot = rows[:, i, i]
        weight = jnp.where(pivot == 0, 0, rest / jnp.where(pivot == 0, 1, pivot))
        return weights.at[:, i].set(weight)

    rows = lax.fori_loop(0, size, rotate, jnp.concatenate([upper, target], 2))
    return lax.fori_loop(0, size, substitute, jnp.zeros_like(rows[:, 0, :-1]))


def _like_measurement(a: float | jax.Array, y: jax.Array) -> jax.Array:
    """Makes a number, or an array for one example, broadcast against y: (B, *Y)."""
    a = jnp.asarray(a, y.dtype)
    return a[None] if a.ndim == y.ndim - 1 > 0 else a


def _check_range(
    name: str, value: float | jax.Array, holds: Callable[[np.ndarray], np.ndarray], rule: str
) -> None:
    if not isinstance(value, jax.core.Tracer) and not np.all(holds(np.asarray(value))):
        raise ValueError(f"{name}={value} of a measurement must be {rule}")


LIKELIHOODS = {"sda": GaussianLikelihood, "dps": DPS, "pigdm": PiGDM, "mmps": MMPS}
