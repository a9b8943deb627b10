"""Sampling by integrating the reverse process from t = T to t = eps.

A predictor takes one step of the reverse SDE, a corrector moves samples along the score at a fixed
time, and `get_pc_sampler` alternates them (Song et al. 2021, algorithm 1 and appendices E to G).
Samplers work with a `ScoreFn` and an SDE, and know nothing of networks, parameters or data ranges:
samples come out in the model's range. They are pure functions of the global batch, to be jitted.
"""

import abc
import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax

from scorax.sde_lib import SDE, Pair, Projection, Sampler, ScoreFn
from scorax.solvers import SOLVERS
from scorax.solvers.probability_flow import get_ode_sampler
from scorax.utils.arrays import batch_mul, example_norm
from scorax.utils.options import Option, check_parameters, configured
from scorax.utils.progress import Observer, observe
from scorax.utils.tables import lookup


class Predictor(abc.ABC):
    """One step of the reverse process, from time t to t - T / N.

    Attributes:
      evaluations: evaluations of the score in one update.
      has_probability_flow: whether the predictor can do without noise.
    """

    evaluations = 1
    has_probability_flow = True

    def __init__(self, sde: SDE, score_fn: ScoreFn, probability_flow: bool = False) -> None:
        self.check(probability_flow)
        self.sde = sde
        self.score_fn = score_fn
        self.rsde = sde.reverse(score_fn, probability_flow)
        self.probability_flow = probability_flow

    @classmethod
    def check(cls, probability_flow: bool) -> None:
        """Raises ValueError if `probability_flow` is set but the predictor always adds noise."""
        if probability_flow and not cls.has_probability_flow:
            raise ValueError(
                f"sampling.probability_flow=True does not work with {cls.__name__}, which always "
                "adds noise; set sampling.predictor to reverse_diffusion or euler_maruyama"
            )

    @classmethod
    def time_grid(cls, sde: SDE, eps: float, t_start: float) -> np.ndarray:
        """The times from t_start at which steps begin, and the one at which the last step ends."""
        times = time_grid(sde, eps, t_start)
        return np.append(times, times[-1])

    @abc.abstractmethod
    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        """x: (B, *S) at t: (B,) -> the next x, and the next x without the noise just added."""


class EulerMaruyamaPredictor(Predictor):
    """Euler-Maruyama on the reverse SDE, or Euler on the probability-flow ODE."""

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        dt = self.sde.T / self.sde.N
        z = jax.random.normal(rng, x.shape, x.dtype)
        drift, diffusion = self.rsde.sde(x, t)
        x_mean = x - drift * dt
        return x_mean + batch_mul(diffusion * math.sqrt(dt), z), x_mean


class ReverseDiffusionPredictor(Predictor):
    """Reverses the forward chain step by step (Song et al. 2021, appendix E)."""

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        f, G = self.rsde.discretize(x, t)
        z = jax.random.normal(rng, x.shape, x.dtype)
        x_mean = x - f
        return x_mean + batch_mul(G, z), x_mean


class AncestralSamplingPredictor(Predictor):
    """Ancestral sampling: DDPM's for VP, SMLD's for VE, exact posterior steps for other SDEs."""

    has_probability_flow = False

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        z = jax.random.normal(rng, x.shape, x.dtype)
        x_mean, std = self.sde.ancestral_step(x, t, self.score_fn(x, t))
        return x_mean + batch_mul(std, z), x_mean


class ExponentialPredictor(Predictor):
    """The exponential integrator of Rozet & Louppe 2023 (section 3.2), which is a step of DDIM.

    Exact for an eps that is constant during the step. Steps have the length T / N and end at 0.
    """

    @classmethod
    def time_grid(cls, sde: SDE, eps: float, t_start: float) -> np.ndarray:
        steps = math.ceil(t_start / sde.T * sde.N - 1e-3)
        times = np.maximum(t_start - sde.T / sde.N * np.arange(steps + 1), 0)
        with jax.ensure_compile_time_eval():  # a concrete number, even while a caller is traced
            noise_left = float(sde.marginal_coeffs(jnp.zeros(()))[1])
        # Where no noise is left, a corrector cannot evaluate the score.
        times[-1] = 0 if noise_left > 0 else sde.t_min
        return times.astype(np.float32)

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        mu, sigma = self.sde.marginal_coeffs(t)
        end, std = self.sde.marginal_coeffs(jnp.maximum(t - self.sde.T / self.sde.N, 0))
        ratio = end / mu
        eps = -batch_mul(sigma, self.score_fn(x, t))
        x = batch_mul(ratio, x) + batch_mul(std - ratio * sigma, eps)
        return x, x


class NonePredictor(Predictor):
    """Leaves x as it is."""

    evaluations = 0

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        return x, x


class Corrector(abc.ABC):
    """Steps that leave the distribution at a fixed time unchanged.

    Attributes:
      evaluations: evaluations of the score in one update.
    """

    def __init__(self, sde: SDE, score_fn: ScoreFn, snr: float, n_steps: int) -> None:
        self.sde = sde
        self.score_fn = score_fn
        self.snr = snr
        self.n_steps = n_steps

    @property
    def evaluations(self) -> int:
        return self.n_steps

    @abc.abstractmethod
    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        """x: (B, *S) at t: (B,) -> the next x, and the next x without the noise just added."""


class _Langevin(Corrector):
    """Langevin dynamics; subclasses differ in the step size."""

    @abc.abstractmethod
    def step_size(self, t: jax.Array, score: jax.Array, z: jax.Array) -> jax.Array:
        """Step size (B,) at t: (B,) for a score and noise, both (B, *S)."""

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        def step(k: int, carry: Pair) -> Pair:
            x, _ = carry
            z = jax.random.normal(jax.random.fold_in(rng, k), x.shape, x.dtype)
            score = self.score_fn(x, t)
            size = self.step_size(t, score, z)
            x_mean = x + batch_mul(size, score)
            return x_mean + batch_mul(jnp.sqrt(2 * size), z), x_mean

        return (
            step(0, (x, x)) if self.n_steps == 1 else lax.fori_loop(0, self.n_steps, step, (x, x))
        )


class LangevinCorrector(_Langevin):
    """Langevin dynamics with the step set by the signal-to-noise ratio (algorithms 4 and 5).

    As published, the two norms are averaged over the batch, so each sample depends slightly on the
    other samples of its batch.
    """

    def step_size(self, t: jax.Array, score: jax.Array, z: jax.Array) -> jax.Array:
        ratio = jnp.mean(example_norm(z)) / jnp.mean(example_norm(score))
        return 2 * self.sde.langevin_scale(t) * (self.snr * ratio) ** 2


class AnnealedLangevinDynamics(_Langevin):
    """Langevin dynamics with the step size of NCSN (Song & Ermon 2019, algorithm 1)."""

    def step_size(self, t: jax.Array, score: jax.Array, z: jax.Array) -> jax.Array:
        _, std = self.sde.marginal_coeffs(t)
        return 2 * self.sde.langevin_scale(t) * (self.snr * std) ** 2


class AdaptiveLangevin(_Langevin):
    """Langevin dynamics with the step of Rozet & Louppe 2023 (algorithm 4), where snr is tau.

    The step is tau over the mean square of the score, for each example on its own. It depends on
    the state, so the distribution is kept only where that mean hardly varies: in examples of many
    values. In four dimensions and with tau = 0.05, variances come out up to 30 % too large.
    """

    def step_size(self, t: jax.Array, score: jax.Array, z: jax.Array) -> jax.Array:
        return self.snr / jnp.mean(score**2, range(1, score.ndim))


class NoneCorrector(Corrector):
    """Leaves x as it is."""

    evaluations = 0

    def update_fn(self, rng: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        return x, x


def time_grid(sde: SDE, eps: float, t_start: float = math.inf) -> np.ndarray:
    """The times T, ..., eps of the discretised SDE's steps, without those before t_start: (<= N,).

    If eps lies beyond the first cell of the discrete chain (for VP with more than 1,000 steps), the
    grid ends inside that cell instead, because the last levels would otherwise be skipped.
    """
    # Far enough inside the cell that the guard of `SDE.level_index` does not reach the next one.
    inside = 1 - 8 * np.finfo(np.float32).eps * sde.N
    times = np.linspace(sde.T, min(eps, inside * sde.T / (sde.N - 1)), sde.N, dtype=np.float32)
    return times[times <= np.float32(t_start)]


def _named_predictor(name: str) -> type[Predictor]:
    return lookup(PREDICTORS, name.lower(), "predictor (sampling.predictor)")


def _named_corrector(name: str) -> type[Corrector]:
    return lookup(CORRECTORS, name.lower(), "corrector (sampling.corrector)")


def get_pc_sampler(
    sde: SDE,
    predictor: Annotated[type[Predictor], Option("sampling.predictor", read=_named_predictor)],
    corrector: Annotated[type[Corrector], Option("sampling.corrector", read=_named_corrector)],
    snr: Annotated[float, Option("sampling.snr")] = 0.16,
    n_steps: Annotated[int, Option("sampling.n_steps_each")] = 1,
    probability_flow: Annotated[bool, Option("sampling.probability_flow")] = False,
    denoise: Annotated[bool, Option("sampling.noise_removal")] = True,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    observer: Observer | None = None,
    projection: Projection | None = None,
    t_start: float | None = None,
    steps: Annotated[int | None, Option("sampling.steps", unset=0)] = None,
    corrector_last: Annotated[bool, Option("sampling.corrector_last")] = False,
    corrector_min: Annotated[float, Option("sampling.corrector_min")] = 0.0,
    corrector_max: Annotated[float | None, Option("sampling.corrector_max", unset=0.0)] = None,
) -> Sampler:
    """The predictor-corrector sampler (Song et al. 2021, algorithm 1).

    Args:
      sde: the SDE of the score.
      predictor, corrector: classes.
      snr, n_steps: signal-to-noise ratio and number of steps of the corrector.
      probability_flow: make the predictor deterministic.
      denoise: return the last mean, without the noise of the last step.
      eps: last time; None for the SDE's t_min.
      observer: sees the samples about 50 times while the sampler runs.
      projection: imposes what is known on the initial state and after each update of the corrector
        and the predictor, at the time that has been reached.
      t_start: start at this time, from the `x_init` with which the sampler is then called, and skip
        all earlier steps; None to start from the noise at T.
      steps: number of time steps from T to 0; None for sde.N.
      corrector_last: the corrector acts after the predictor, at the time that it has reached, as in
        Rozet & Louppe 2023.
      corrector_min, corrector_max: smallest and largest sigma / mu at which the corrector acts;
        None for no upper end.

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`.

    Raises:
      ValueError: for a parameter out of range.
    """
    sde = sde if steps is None else sde.with_steps(steps)
    first, eps = sde.sampling_interval(eps, t_start)
    if snr <= 0 or n_steps < 1:
        raise ValueError(f"sampling.snr={snr} and sampling.n_steps_each={n_steps} must be positive")
    low, high = corrector_min, math.inf if corrector_max is None else corrector_max
    if not 0 <= low < high:
        raise ValueError(
            f"sampling.corrector_min={low} must be at least 0 and less than "
            f"sampling.corrector_max={high}"
        )
    predictor.check(probability_flow)
    project = projection or (lambda rng, x, x_mean, t: (x, x_mean))

    def sampler(
        rng: jax.Array,
        score_fn: ScoreFn,
        shape: tuple[int, ...],
        x_init: jax.Array | None = None,
    ) -> tuple[jax.Array, int]:
        predict = predictor(sde, score_fn, probability_flow)
        correct = corrector(sde, score_fn, snr, n_steps)
        with jax.ensure_compile_time_eval():
            times = jnp.asarray(predictor.time_grid(sde, eps, first))
            mu, sigma = sde.marginal_coeffs(times[1:] if corrector_last else times[:-1])
            corrected = (low * mu <= sigma) & (sigma <= high * mu)
            n, corrections = len(corrected), int(corrected.sum())
        prior_rng, loop_rng = jax.random.split(rng)
        x = sde.initial_state(prior_rng, shape, x_init, t_start)
        start_rng = jax.random.fold_in(prior_rng, 1)
        x, x_mean = project(start_rng, x, x, jnp.full(shape[:1], times[0]))

        def update(half: Any, rng: jax.Array, x: jax.Array, t: jax.Array, end: jax.Array) -> Pair:
            x, x_mean = half.update_fn(rng, x, t)
            return project(jax.random.fold_in(rng, n_steps), x, x_mean, end)

        def correct_at(i: jax.Array, rng: jax.Array, pair: Pair, t: jax.Array) -> Pair:
            if corrections == n:
                return update(correct, rng, pair[0], t, t)
            return lax.cond(corrected[i], lambda: update(correct, rng, pair[0], t, t), lambda: pair)

        def step(i: jax.Array, pair: Pair) -> Pair:
            t, next_t = (jnp.full(shape[:1], times[i + k]) for k in range(2))
            correct_rng, predict_rng = jax.random.split(jax.random.fold_in(loop_rng, i))
            if not corrector_last:
                pair = correct_at(i, correct_rng, pair, t)
            pair = update(predict, predict_rng, pair[0], t, next_t)
            if corrector_last:
                pair = correct_at(i, correct_rng, pair, next_t)
            observe(observer, i, n, pair[1])
            return pair

        x, x_mean = lax.fori_loop(0, n, step, (x, x_mean))
        nfe = n * predict.evaluations + corrections * correct.evaluations
        return x_mean if denoise else x, nfe

    return sampler


def get_sampling_fn(
    config: ml_collections.ConfigDict,
    sde: SDE,
    observer: Observer | None = None,
    projection: Projection | None = None,
    t_start: float | None = None,
    **options: object,
) -> Sampler:
    """The sampler that `config.sampling` describes.

    Args:
      config: the whole config.
      sde: the SDE of the score.
      observer, projection, t_start: see `get_pc_sampler`.
      **options: parameters of the sampler that override the config.

    Raises:
      ValueError: for an unknown name or a parameter out of range.
    """
    row = lookup(SAMPLERS, config.sampling.method.lower(), "sampling.method")
    check_parameters(functools.partial(row, sde), ("observer", "projection", "t_start", *options))
    options = configured(row, config) | options
    return row(sde, **options, observer=observer, projection=projection, t_start=t_start)


PREDICTORS = {
    "euler_maruyama": EulerMaruyamaPredictor,
    "reverse_diffusion": ReverseDiffusionPredictor,
    "ancestral_sampling": AncestralSamplingPredictor,
    "exponential": ExponentialPredictor,
    "none": NonePredictor,
}
CORRECTORS = {
    "langevin": LangevinCorrector,
    "ald": AnnealedLangevinDynamics,
    "adaptive_langevin": AdaptiveLangevin,
    "none": NoneCorrector,
}
SAMPLERS = {"pc": get_pc_sampler, "ode": get_ode_sampler, **SOLVERS}
