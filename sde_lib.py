"""The stochastic differential equations that turn data into noise, and their time reversal.

    dx = f(x, t) dt + g(t) dw                                       (Song et al. 2021, eq. 5)
    dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw_reversed       (eq. 6)
    dx = [f(x, t) - g(t)^2 score(x, t) / 2] dt                      (eq. 13, probability flow)

t = 0 is data, t = T = 1 is noise; times have shape (B,), states (B, *S) with any event shape S.
Every drift is linear, f(x, t) = f(t) x, so every perturbation kernel is Gaussian,

    p(x_t | x_0) = N(mu(t) x_0, sigma(t)^2 I),

and everything else follows from the primitive `marginal_coeffs(t) -> (mu, sigma)`:
denoiser x0 = (x + sigma^2 score) / mu, noise eps = -sigma score, log-SNR = log(mu^2 / sigma^2).
SDEs differ in methods and attributes of their classes; no code tests for the type of an SDE.

Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
ICLR 2021 (arXiv 2011.13456), section 3.4 and appendices B to E, unless a class says otherwise.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from scorax.utils.arrays import batch_mul
from scorax.utils.schedules import NOISES, SIGNALS
from scorax.utils.tables import check_name, lookup

ScoreFn = Callable[[jax.Array, jax.Array], jax.Array]
Pair = tuple[jax.Array, jax.Array]
# (rng, score_fn, shape, x_init=None) -> samples of the shape, score evaluations per sample.
# A sampler built to start at a time t_start before T is given the state x_init at that time.
Sampler = Callable[..., tuple[jax.Array, int | jax.Array]]
# (rng, x, x_mean, t: (B,)) -> (x, x_mean). Called between the steps of a sampler to impose what is
# known about the samples.
Projection = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Pair]


@dataclasses.dataclass(frozen=True)
class SDE(abc.ABC):
    """A forward SDE with linear drift and N discretisation steps.

    Attributes:
      T: time at which the state is pure noise.
      t_min: time at which sampling stops, while the score is still well conditioned.
      prior_std: standard deviation of the prior at t = T.
      score_sde_rows: what a score_sde network for this SDE predicts, as rows of
        `models.utils.PARAMETRIZATIONS`: (trained with continuous times, trained discretely).
    """

    T = 1.0
    t_min = 1e-5
    prior_std = 1.0
    score_sde_rows = ("eps", "eps")

    N: int = dataclasses.field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.N, bool) or not isinstance(self.N, int) or self.N < 2:
            raise ValueError(
                f"{type(self).__name__}: N={self.N!r} (model.num_scales or sampling.steps) must be "
                "a whole number of at least 2 discretisation steps"
            )

    @abc.abstractmethod
    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        """Drift f(x, t): (B, *S) and diffusion g(t): (B,) at x: (B, *S), t: (B,)."""

    @abc.abstractmethod
    def marginal_coeffs(self, t: jax.Array) -> Pair:
        """mu(t) and sigma(t) of the perturbation kernel, in the shape of t."""

    @abc.abstractmethod
    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        """The time at which log(mu^2 / sigma^2) has the given value: the inverse of `log_snr`."""

    def log_snr(self, t: jax.Array) -> jax.Array:
        """log(mu(t)^2 / sigma(t)^2), which decreases with t, in the shape of t."""
        mu, sigma = self.marginal_coeffs(t)
        return 2 * (jnp.log(mu) - jnp.log(sigma))

    def marginal_prob(self, x: jax.Array, t: jax.Array) -> Pair:
        """Mean (B, *S) and standard deviation (B,) of p(x_t | x_0 = x)."""
        mu, sigma = self.marginal_coeffs(t)
        return batch_mul(mu, x), sigma

    def prior_sampling(self, rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """A draw from the prior N(0, prior_std^2 I) in the given shape."""
        return self.prior_std * jax.random.normal(rng, shape)

    def sampling_interval(self, eps: float | None, t_start: float | None) -> tuple[float, float]:
        """First and last time of sampling; None stands for T and `t_min`.

        Raises:
          ValueError: unless 0 < eps < t_start <= T.
        """
        first = self.T if t_start is None else t_start
        last = self.t_min if eps is None else eps
        if not 0 < last < self.T:
            raise ValueError(f"sampling.eps={last} must lie between 0 and {self.T}")
        if not last < first <= self.T:
            raise ValueError(
                f"t_start={first} must lie between the last time, {last}, and the time of the "
                f"noise, {self.T}"
            )
        return first, last

    def initial_state(
        self,
        rng: jax.Array,
        shape: tuple[int, ...],
        x_init: jax.Array | None = None,
        t_start: float | None = None,
    ) -> jax.Array:
        """The state from which sampling starts: `x_init`, or else a draw from the prior.

        Raises:
          ValueError: if `x_init` does not have the given shape, or is missing although `t_start`
            is given.
        """
        if x_init is None:
            if t_start is not None:
                raise ValueError(
                    f"a sampler with t_start={t_start} needs x_init, the state at that time"
                )
            return self.prior_sampling(rng, shape)
        if x_init.shape != tuple(shape):
            raise ValueError(f"x_init of shape {x_init.shape} must have the samples' {shape}")
        return x_init

    def prior_logp(self, z: jax.Array) -> jax.Array:
        """Log density (nats) of the prior at each example of z: (B, *S) -> (B,)."""
        d = math.prod(z.shape[1:])
        var = self.prior_std**2
        square = jnp.sum(jnp.square(z), axis=tuple(range(1, z.ndim)))
        return -d / 2 * math.log(2 * math.pi * var) - square / (2 * var)

    def discretize(self, x: jax.Array, t: jax.Array) -> Pair:
        """One step of the forward chain x_{i+1} = x_i + f + G z: f (B, *S) and G (B,).

        Euler-Maruyama with step T / N, unless the class defines its own chain.
        """
        drift, diffusion = self.sde(x, t)
        dt = self.T / self.N
        return drift * dt, diffusion * math.sqrt(dt)

    def reverse(self, score_fn: ScoreFn, probability_flow: bool = False) -> "ReverseSDE":
        """The reverse-time SDE for a score, or its probability-flow ODE."""
        return ReverseSDE(self, score_fn, probability_flow)

    def ancestral_step(self, x: jax.Array, t: jax.Array, score: jax.Array) -> Pair:
        """Mean (B, *S) and noise level (B,) of one step t -> t - T / N of ancestral sampling.

        The step draws from the exact p(x_s | x_t, x_0), s = t - T / N, of a process with Gaussian
        kernels (Ho et al. 2020, eq. 6 and 7, for any mu and sigma), with the denoised state as x_0.
        """
        s = jnp.maximum(t - self.T / self.N, 0.0)
        (mu_t, sigma_t), (mu_s, sigma_s) = self.marginal_coeffs(t), self.marginal_coeffs(s)
        r = mu_t / mu_s
        var = jnp.maximum(sigma_t**2 - (r * sigma_s) ** 2, 0.0)  # of x_t given x_s
        # With x_0 = (x + sigma_t^2 score) / mu_t the posterior mean reduces to this.
        x_mean = batch_mul(1 / r, x + batch_mul(var, score))
        return x_mean, jnp.sqrt(var) * sigma_s / sigma_t

    def langevin_scale(self, t: jax.Array) -> jax.Array:
        """alpha (B,), the factor of the step size in algorithms 4 and 5 of the paper.

        By default it is the factor by which one step shrinks the squared signal: 1 - beta_i for VP.
        """
        mu, _ = self.marginal_coeffs(t)
        mu_before, _ = self.marginal_coeffs(jnp.maximum(t - self.T / self.N, 0.0))
        return (mu / mu_before) ** 2

    def discrete_coeffs(self, k: jax.Array) -> Pair:
        """mu and sigma of noise level k in 0..N-1 (0 is the cleanest) of the discrete chain.

        Raises:
          NotImplementedError: if the SDE has no discrete training.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.discrete_coeffs: this SDE has no discrete training objective; "
            "set training.continuous=True"
        )

    def level_index(self, t: jax.Array) -> jax.Array:
        """Index floor(t (N - 1) / T) in 0..N-1 into the tables of the discrete chain."""
        # Times on the grid are rounded to float32: without the guard 6.99999 would become 6.
        guard = 4 * np.finfo(np.float32).eps * self.N
        index = jnp.floor(t * ((self.N - 1) / self.T) + guard).astype(jnp.int32)
        return jnp.clip(index, 0, self.N - 1)

    def with_steps(self, n: int) -> "SDE":
        """The same SDE, discretised into n steps."""
        return dataclasses.replace(self, N=n)


@dataclasses.dataclass(frozen=True)
class ReverseSDE:
    """Time reversal of an SDE: integrates from T down to 0 with negative dt.

    Attributes:
      forward: the SDE to reverse.
      score_fn: x: (B, *S), t: (B,) -> (B, *S).
      probability_flow: whether to take the deterministic process with the same marginals (eq. 13).
    """

    forward: SDE
    score_fn: ScoreFn
    probability_flow: bool = False

    def _reverse(self, f: jax.Array, g: jax.Array, x: jax.Array, t: jax.Array) -> Pair:
        weight = 0.5 if self.probability_flow else 1.0
        drift = f - batch_mul(weight * g**2, self.score_fn(x, t))
        return drift, jnp.zeros_like(g) if self.probability_flow else g

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        """Drift (B, *S) and diffusion (B,) of the reverse process (eq. 6, eq. 13)."""
        return self._reverse(*self.forward.sde(x, t), x, t)

    def discretize(self, x: jax.Array, t: jax.Array) -> Pair:
        """f and G of one reverse step x_{i} = x_{i+1} - f + G z (appendix E)."""
        return self._reverse(*self.forward.discretize(x, t), x, t)


@dataclasses.dataclass(frozen=True)
class VESDE(SDE):
    """Variance exploding with geometric noise levels (section 3.4, appendix C), the limit of SMLD.

    sigma(t) = sigma_min (sigma_max / sigma_min)^t, mu = 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    score_sde_rows = ("sigma", "sigma_index")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"VESDE: sigma_min={self.sigma_min} and sigma_max={self.sigma_max} must satisfy "
                "0 < model.sigma_min < model.sigma_max"
            )

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _sigma(self, t: jax.Array) -> jax.Array:
        return self.sigma_min * jnp.exp(t * self._log_ratio)

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        return jnp.zeros_like(x), self._sigma(t) * math.sqrt(2 * self._log_ratio)

    def marginal_coeffs(self, t: jax.Array) -> Pair:
        return jnp.ones_like(t), self._sigma(t)

    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        return (-log_snr / 2 - math.log(self.sigma_min)) / self._log_ratio

    @functools.cached_property
    def discrete_sigmas(self) -> np.ndarray:
        """The N noise levels, ascending: (N,). NumPy, because a traced array cannot be cached."""
        levels = np.linspace(math.log(self.sigma_min), math.log(self.sigma_max), self.N)
        return np.exp(levels).astype(np.float32)

    def _adjacent_sigmas(self, t: jax.Array) -> Pair:
        """sigma_i and sigma_{i-1} (B,), with sigma_{-1} = 0."""
        i, sigmas = self.level_index(t), jnp.asarray(self.discrete_sigmas)
        return sigmas[i], jnp.where(i == 0, 0.0, sigmas[jnp.maximum(i - 1, 0)])

    def discretize(self, x: jax.Array, t: jax.Array) -> Pair:
        """The SMLD chain (section 3.4): f = 0, G^2 = sigma_i^2 - sigma_{i-1}^2."""
        sigma, below = self._adjacent_sigmas(t)
        return jnp.zeros_like(x), jnp.sqrt(sigma**2 - below**2)

    def ancestral_step(self, x: jax.Array, t: jax.Array, score: jax.Array) -> Pair:
        """Ancestral sampling of SMLD models (appendix F, eq. 47)."""
        sigma, below = self._adjacent_sigmas(t)
        gap = sigma**2 - below**2
        return x + batch_mul(gap, score), below * jnp.sqrt(gap) / sigma

    def langevin_scale(self, t: jax.Array) -> jax.Array:
        return jnp.ones_like(t)

    def discrete_coeffs(self, k: jax.Array) -> Pair:
        sigma = jnp.asarray(self.discrete_sigmas)[k]
        return jnp.ones_like(sigma), sigma


@dataclasses.dataclass(frozen=True)
class _LinearBetaSDE(SDE):
    """Drift -beta(t) x / 2 with beta(t) = beta_min + t (beta_max - beta_min): VP and sub-VP."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    t_min = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"{type(self).__name__}: beta_min={self.beta_min} and beta_max={self.beta_max} "
                "must satisfy 0 < model.beta_min <= model.beta_max"
            )
        if self.beta_max >= self.N:
            raise ValueError(
                f"{type(self).__name__}: N={self.N} steps are too few for "
                f"beta_max={self.beta_max}, because beta_max / N must stay below 1; raise "
                "model.num_scales or sampling.steps"
            )

    def _beta(self, t: jax.Array) -> jax.Array:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _beta_integral(self, t: jax.Array) -> jax.Array:
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def _time_of_beta_integral(self, b: jax.Array) -> jax.Array:
        """Solves the quadratic `_beta_integral(t) = b`, without cancellation for small b."""
        slope = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * b))

    @functools.cached_property
    def discrete_betas(self) -> np.ndarray:
        """beta_i = beta(i / (N - 1)) / N for the chain of N steps: (N,), float64."""
        return np.linspace(self.beta_min / self.N, self.beta_max / self.N, self.N)

    @property
    def alphas(self) -> np.ndarray:
        """1 - beta_i: (N,)."""
        return (1 - self.discrete_betas).astype(np.float32)

    def langevin_scale(self, t: jax.Array) -> jax.Array:
        return jnp.asarray(self.alphas)[self.level_index(t)]


@dataclasses.dataclass(frozen=True)
class VPSDE(_LinearBetaSDE):
    """Variance preserving (section 3.4, appendix C), the limit of DDPM.

    mu = exp(-B / 2), sigma^2 = 1 - exp(-B), where B(t) is the integral of beta from 0 to t.
    """

    score_sde_rows = ("eps", "eps_index")

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        beta = self._beta(t)
        return batch_mul(-beta / 2, x), jnp.sqrt(beta)

    def marginal_coeffs(self, t: jax.Array) -> Pair:
        b = self._beta_integral(t)
        return jnp.exp(-b / 2), jnp.sqrt(-jnp.expm1(-b))

    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        return self._time_of_beta_integral(jax.nn.softplus(-log_snr))

    @functools.cached_property
    def _log_alphas_cumprod(self) -> np.ndarray:
        return np.cumsum(np.log1p(-self.discrete_betas))

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """Product of all alpha_j with j <= i: (N,)."""
        return np.exp(self._log_alphas_cumprod).astype(np.float32)

    @property
    def sqrt_alphas_cumprod(self) -> np.ndarray:
        """mu of noise level i: (N,)."""
        return np.exp(self._log_alphas_cumprod / 2).astype(np.float32)

    @property
    def sqrt_1m_alphas_cumprod(self) -> np.ndarray:
        """sigma of noise level i: (N,)."""
        return np.sqrt(-np.expm1(self._log_alphas_cumprod)).astype(np.float32)

    def discretize(self, x: jax.Array, t: jax.Array) -> Pair:
        """The DDPM chain (section 3.4): f = (sqrt(1 - beta_i) - 1) x, G = sqrt(beta_i)."""
        beta = jnp.asarray(self.discrete_betas, x.dtype)[self.level_index(t)]
        return batch_mul(jnp.sqrt(1 - beta) - 1, x), jnp.sqrt(beta)

    def ancestral_step(self, x: jax.Array, t: jax.Array, score: jax.Array) -> Pair:
        """Ancestral sampling of DDPM (section 2.2), with noise of level sqrt(beta_i)."""
        beta = jnp.asarray(self.discrete_betas, x.dtype)[self.level_index(t)]
        x_mean = batch_mul(1 / jnp.sqrt(1 - beta), x + batch_mul(beta, score))
        return x_mean, jnp.sqrt(beta)

    def discrete_coeffs(self, k: jax.Array) -> Pair:
        return jnp.asarray(self.sqrt_alphas_cumprod)[k], jnp.asarray(self.sqrt_1m_alphas_cumprod)[k]


@dataclasses.dataclass(frozen=True)
class subVPSDE(_LinearBetaSDE):  # noqa: N801 (score_sde's public name)
    """Sub-variance-preserving, designed for high likelihoods (section 3.4, appendix B.3).

    mu = exp(-B / 2), sigma = 1 - exp(-B): smaller than VP's at every t.
    """

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        beta = self._beta(t)
        discount = -jnp.expm1(-2 * self._beta_integral(t))
        return batch_mul(-beta / 2, x), jnp.sqrt(beta * discount)

    def marginal_coeffs(self, t: jax.Array) -> Pair:
        b = self._beta_integral(t)
        return jnp.exp(-b / 2), -jnp.expm1(-b)

    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        # SNR = (1 - s) / s^2 with s = sigma: the positive root of s^2 SNR + s - 1 = 0.
        s = 2 / (1 + jnp.sqrt(1 + 4 * jnp.exp(log_snr)))
        # Two forms of B = -log(1 - s): each is exact where the other loses precision.
        b = jnp.where(s < 0.5, -jnp.log1p(-jnp.minimum(s, 0.5)), -log_snr - 2 * jnp.log(s))
        return self._time_of_beta_integral(b)


@dataclasses.dataclass(frozen=True)
class SigmaPowerSDE(SDE):
    """dx = sigma^t dw, the SDE of Song's tutorials.

    mu = 1, sigma(t)^2 = (sigma^(2t) - 1) / (2 log sigma).
    """

    sigma_base: float = 25.0

    t_min = 1e-3
    score_sde_rows = ("sigma", "sigma")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma_base > 1:
            raise ValueError(
                f"SigmaPowerSDE: sigma_base={self.sigma_base} (model.sigma_base) must exceed 1, "
                "or the noise would not grow"
            )

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.sigma_base)

    @property
    def prior_std(self) -> float:
        return math.sqrt(math.expm1(self._rate * self.T) / self._rate)

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        return jnp.zeros_like(x), jnp.exp(t * (self._rate / 2))

    def marginal_coeffs(self, t: jax.Array) -> Pair:
        return jnp.ones_like(t), jnp.sqrt(jnp.expm1(self._rate * t) / self._rate)

    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        return jnp.log1p(self._rate * jnp.exp(-log_snr)) / self._rate


@dataclasses.dataclass(frozen=True)
class SignalSDE(SDE):
    """The schedules of score-based data assimilation (Rozet & Louppe 2023, section 4 and code).

    The signal mu is cos(w t)^2 with w = arccos(sqrt(eta)) ("cos"), 1 - (1 - eta) t ("lin") or
    eta^(t^2) ("exp"). The noise is sigma^2 = 1 - mu^2 + eta^2 ("vp"), sigma = 1 - mu^2 + eta
    ("subvp") or sigma = 1 - mu + eta ("subsubvp"). The paper uses "cos" with "vp", and gives mu and
    sigma; the drift and the diffusion of the SDE with these marginals are f = (log mu)' x and
    g^2 = (sigma^2)' - 2 (log mu)' sigma^2.

    Attributes:
      eta: noise left at t = 0, and signal left at t = 1.
      signal: a row of `utils.schedules.SIGNALS`.
      noise: a row of `utils.schedules.NOISES`.
    """

    eta: float = 1e-3
    signal: str = "cos"
    noise: str = "vp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eta < 1:
            raise ValueError(f"SignalSDE: eta={self.eta} (model.eta) must lie between 0 and 1")
        check_name(SIGNALS, self.signal, "signal (model.signal)")
        check_name(NOISES, self.noise, "noise (model.noise)")

    def sde(self, x: jax.Array, t: jax.Array) -> Pair:
        rate = SIGNALS[self.signal].rate(self.eta, t)
        mu, sigma = self.marginal_coeffs(t)
        growth = NOISES[self.noise].growth(mu, sigma)
        return batch_mul(-rate, x), jnp.sqrt(2 * rate * (growth + sigma**2))

    def marginal_coeffs(self, t: jax.Array) -> Pair:
        signal = SIGNALS[self.signal]
        mu = signal.mu(self.eta, t)
        return mu, NOISES[self.noise].sigma(self.eta, mu, signal.lost(self.eta, t))

    def time_of_log_snr(self, log_snr: jax.Array) -> jax.Array:
        mu, lost = NOISES[self.noise].signal(self.eta, log_snr)
        return SIGNALS[self.signal].time(self.eta, mu, jnp.maximum(lost, 0.0))


CosineVPSDE = SignalSDE  # the name of its default


@functools.cache
def iddpm_sigmas(steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> np.ndarray:
    """Noise levels sigma / mu of iDDPM, u_0 > ... > u_steps = 0: (steps + 1,), float64.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1.
    """
    alpha_bar = np.sin(np.pi / 2 * np.arange(steps + 1) / (steps * (c_2 + 1))) ** 2
    sigmas = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        kept = max(alpha_bar[j - 1] / alpha_bar[j], c_1)
        sigmas[j - 1] = np.sqrt((sigmas[j] ** 2 + 1) / kept - 1)
    return sigmas


def get_sde(config: ml_collections.ConfigDict) -> SDE:
    """Builds the SDE that `config.training.sde` names from the fields of `config.model`.

    Fields missing from `config.model` keep the defaults of the SDE's class.

    Raises:
      ValueError: for an unknown name, a value out of range, or a field that has neither a default
        nor a key in the config.
    """
    cls, m = lookup(SDES, config.training.sde.lower(), "sde (training.sde)"), config.model
    fields = [f for f in dataclasses.fields(cls) if f.init and f.name != "N"]
    for field in fields:
        defaults = (field.default, field.default_factory)
        if field.name not in m and defaults == (dataclasses.MISSING, dataclasses.MISSING):
            raise ValueError(
                f"{cls.__name__} has a field {field.name} without a default, and the config has no "
                f"model.{field.name}; declare that key in configs/base.py, or give the field a "
                "default"
            )
    return cls(N=m.num_scales, **{f.name: m[f.name] for f in fields if f.name in m})


SDES = {
    "vesde": VESDE,
    "vpsde": VPSDE,
    "subvpsde": subVPSDE,
    "sigma_power": SigmaPowerSDE,
    "cosine": SignalSDE,
}
