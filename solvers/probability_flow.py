"""The probability-flow ODE: sampling, encoding into latents, decoding, interpolating.

    dx/dt = f(x, t) - g(t)^2 score(x, t) / 2                     (Song et al. 2021, eq. 13)

has the same marginals as the SDE at every t, but no noise. Integrated from t = T down to eps it
maps latents z ~ N(0, prior_std^2 I) to samples; integrated from eps up to T it maps data to their
latents. Samplers, encoders and likelihoods all integrate it with `Integrator`, an adaptive
Runge-Kutta method of diffrax that is compiled with the network into one program.

Error control. With "batch", all samples take the same steps, chosen so that the root mean square of
error / (atol + rtol |x|) over the whole batch stays below 1, as when score_sde applies scipy's RK45
to the batch as one long vector. Each sample then depends slightly on the others, and a hard sample
among many easy ones is integrated less accurately than requested. With "sample", each sample has
its own steps and meets the tolerance on its own, so it depends on the others only through rounding.
All samples still go through the network together until the last one is done, so the slowest sample
determines the run time.

Evaluations are counted as the network sees them, including the evaluations of rejected steps: 2 to
choose the first step, 1 for its first stage, and 6 more for every step, because the last stage of
an accepted step is the first stage of the next. The count is for the slowest sample.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import diffrax
import jax
import jax.numpy as jnp
from jax import lax

from scorax.sde_lib import SDE, Projection, Sampler, ScoreFn
from scorax.utils.options import Option, OptionsOf
from scorax.utils.progress import Observer, observe
from scorax.utils.tables import lookup

Tree = Any
# (t: (B,), y: tree of arrays (B, ...)) -> dy/dt, a tree of the same structure as y
Field = Callable[[jax.Array, Tree], Tree]


@dataclasses.dataclass(frozen=True)
class Integrator:
    """Integrates dy/dt = field(t, y) with adaptive steps.

    Attributes:
      solver: a row of `ODE_SOLVERS`.
      rtol, atol: relative and absolute tolerance of a step.
      error_control: "batch" or "sample"; see the module docstring.
      max_steps: give up after this many steps, including rejected ones.

    Raises:
      ValueError: for an unknown name or a number out of range.
    """

    solver: Annotated[str, Option("sampling.ode_solver")] = "tsit5"
    rtol: Annotated[float, Option("sampling.rtol")] = 1e-5
    atol: Annotated[float, Option("sampling.atol")] = 1e-5
    error_control: Annotated[str, Option("sampling.error_control")] = "batch"
    max_steps: int = 4096

    def __post_init__(self) -> None:
        # Unknown names are reported here, not at the first call.
        lookup(ODE_SOLVERS, self.solver, "ODE solver (sampling.ode_solver)")
        lookup(ERROR_CONTROLS, self.error_control, "error control (sampling.error_control)")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(
                f"rtol={self.rtol} and atol={self.atol} of the probability-flow ODE (sampling.rtol "
                "and atol, eval.bpd_rtol and bpd_atol) must both be positive"
            )
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} must be at least 1")

    def __call__(self, field: Field, y: Tree, t_from: float, t_to: float) -> tuple[Tree, jax.Array]:
        """Integrates y from one time to another, forwards or backwards.

        If the integration fails, because the field is not finite or jumps or because it takes too
        many steps, the program ends with an error that names the time reached.

        Args:
          field: the right-hand side.
          y: tree of arrays with a common leading axis, (B, ...).
          t_from, t_to: the two times.

        Returns:
          y at `t_to`, and the number of evaluations of the field, () int32.
        """
        solve = lambda f, y: self._solve(f, y, t_from, t_to)  # noqa: E731
        y, outcome = ERROR_CONTROLS[self.error_control](solve, field, y)
        _check(outcome, self, (t_from, t_to))
        stages = ODE_SOLVERS[self.solver]().tableau.num_stages
        return y, 2 + outcome["first_stages"].max() + (stages - 1) * outcome["steps"].max()

    def _solve(self, f: Field, y: Tree, t_from: float, t_to: float) -> tuple[Tree, dict]:
        """One solve with one sequence of steps: y at the end, and the outcome."""
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: f(t, y)),
            ODE_SOLVERS[self.solver](),
            t_from,
            t_to,
            None,
            y,
            saveat=diffrax.SaveAt(t1=True, controller_state=True),
            stepsize_controller=_Controller(self.rtol, self.atol),
            max_steps=self.max_steps,
            throw=False,
        )
        _, _, first_stages, finite = solution.controller_state
        outcome = {
            "failed": solution.ts[-1] != t_to,
            "time": solution.ts[-1],
            "finite": finite,
            "steps": solution.stats["num_steps"],
            "first_stages": first_stages,
        }
        return jax.tree.map(lambda ys: ys[-1], solution.ys), outcome


class _Controller(diffrax.PIDController):
    """diffrax's step size controller, which also chooses the first step and gives up in time.

    The first step is chosen from the field. If a step is not finite, diffrax tries ever shorter
    steps; this controller gives up once a step is so short that rounding would swallow it. Every
    attempt at the first step evaluates its first stage, while later steps reuse the last stage of
    the step before. The state holds diffrax's own state, whether no step has been accepted yet, the
    number of first stages evaluated, and whether the last candidate for y was finite.
    """

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):  # noqa: ANN001, ANN201
        slope = lambda t, y: func(terms, t, y, args)  # noqa: E731
        dt0 = self._first_step(slope, t0, t1, y0, self._get_error_order(error_order))
        t1, state = super().init(terms, t0, t1, y0, dt0, args, func, error_order)
        return t1, (state, jnp.asarray(True), jnp.zeros((), jnp.int32), jnp.asarray(True))

    def _first_step(
        self, slope: Field, t0: jax.Array, t1: jax.Array, y0: Tree, order: float
    ) -> jax.Array:
        """Chooses the first step with two evaluations (Hairer, Norsett & Wanner 1993, II.4)."""
        scale = jax.tree.map(lambda y: self.atol + self.rtol * jnp.abs(y), y0)
        size = lambda y: self.norm(jax.tree.map(jnp.divide, y, scale))  # noqa: E731
        y_size = size(y0)

        def rough(f: Tree) -> jax.Array:
            f_size = size(f)
            tiny = (y_size < 1e-5) | (f_size < 1e-5)
            return jnp.minimum(jnp.where(tiny, 1e-6, 0.01 * y_size / f_size), t1 - t0)

        def evaluate(f: Tree, k: jax.Array) -> tuple[Tree, Tree]:
            h = k * rough(f)
            f = slope(t0 + h, jax.tree.map(lambda y, f: y + h * f, y0, f))
            return f, f

        # A scan, so that the network is compiled once for both evaluations.
        _, fs = lax.scan(evaluate, jax.tree.map(jnp.zeros_like, y0), jnp.arange(2, dtype=t0.dtype))
        first, second = (jax.tree.map(lambda f, k=k: f[k], fs) for k in range(2))
        h = rough(first)
        slope_size = jnp.maximum(size(first), size(jax.tree.map(jnp.subtract, second, first)) / h)
        flat = slope_size <= 1e-15
        fine = jnp.where(flat, jnp.maximum(1e-6, 1e-3 * h), (0.01 / slope_size) ** (1 / order))
        h = jnp.minimum(jnp.minimum(100 * h, fine), t1 - t0)
        # If the field is not finite, shorter steps will find out how far it stays finite.
        return jnp.where(jnp.isfinite(h), h, 1e-3 * (t1 - t0))

    def adapt_step_size(  # noqa: ANN201
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state  # noqa: ANN001
    ):  # fmt: skip
        state, waiting, first_stages, _ = controller_state
        keep, *times, state, result = super().adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        finite = jnp.stack([jnp.isfinite(y).all() for y in jax.tree.leaves(y1_candidate)]).all()
        lost = ~keep & (times[1] - times[0] < 8 * jnp.finfo(t0.dtype).eps * jnp.abs(t0))
        result = diffrax.RESULTS.where(lost, diffrax.RESULTS.dt_min_reached, result)
        notes = waiting & ~keep, first_stages + waiting, finite
        return keep, *times, (state, *notes), result


def _solve_batch(solve: Callable, field: Field, y: Tree) -> tuple[Tree, dict]:
    """Solves for the whole batch as one state."""
    n = len(jax.tree.leaves(y)[0])
    return solve(lambda t, y: field(jnp.full((n,), t), y), y)


def _solve_samples(solve: Callable, field: Field, y: Tree) -> tuple[Tree, dict]:
    """Solves for each sample as a state of its own, but evaluates the field on the whole batch."""
    n = len(jax.tree.leaves(y)[0])
    # The field cannot itself be mapped over samples, because it may close over arrays with one
    # entry per sample (labels, measurements). `one` therefore stands for the field on one sample,
    # and its batching rule calls the field on the whole batch. The arrays that the field closes
    # over become arguments, because a custom batching rule must not close over traced arrays.
    jaxpr = jax.make_jaxpr(field)(jnp.zeros((n,)), y)

    @jax.custom_batching.custom_vmap
    def one(constants: list, t: jax.Array, y: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, y)

    @one.def_vmap
    def all_of_them(size: int, mapped: Tree, constants: list, t: jax.Array, y: Tree) -> tuple:
        flat = [jnp.broadcast_to(t, (n,)), *jax.tree.leaves(y)]
        flat = jax.core.eval_jaxpr(jaxpr.jaxpr, constants, *flat)
        return jax.tree.unflatten(jax.tree.structure(y), flat), jax.tree.map(lambda _: True, y)

    return jax.vmap(lambda y: solve(lambda t, y: one(jaxpr.consts, t, y), y))(y)


def _check(outcome: dict, integrator: Integrator, interval: tuple[float, float]) -> None:
    """Ends the program if an integration has failed; calls back to the host only then."""
    outcome = {name: jnp.reshape(value, -1) for name, value in outcome.items()}
    worst = jnp.argmax(outcome["failed"])
    time, finite, steps = (outcome[name][worst] for name in ("time", "finite", "steps"))

    def fail() -> None:
        describe = functools.partial(_raise_failure, integrator, interval)
        jax.debug.callback(describe, time, finite, steps)

    lax.cond(outcome["failed"][worst], fail, lambda: None)


def _raise_failure(
    integrator: Integrator,
    interval: tuple[float, float],
    time: jax.Array,
    finite: jax.Array,
    steps: jax.Array,
) -> None:
    if not finite:
        reason = "the score is not finite there; look at the network's parameters and input"
    elif steps >= integrator.max_steps:
        reason = f"its {integrator.max_steps} steps are used up; raise rtol or atol"
    else:
        reason = "no step is short enough there; the score changes too fast, or jumps"
    raise FloatingPointError(
        f"the probability-flow ODE from t={interval[0]:g} to t={interval[1]:g} stopped at "
        f"t={time:.6g} after {steps} steps with rtol={integrator.rtol:g}, "
        f"atol={integrator.atol:g}: {reason}"
    )


def get_drift(sde: SDE, score_fn: ScoreFn) -> Field:
    """The right-hand side of eq. 13: t: (B,), x: (B, *S) -> dx/dt: (B, *S)."""
    flow = sde.reverse(score_fn, probability_flow=True)
    return lambda t, x: flow.sde(x, t)[0]


def get_ode_sampler(
    sde: SDE,
    *,
    denoise: Annotated[bool, Option("sampling.noise_removal")] = False,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    t_start: float | None = None,
    projection: Projection | None = None,
    observer: Observer | None = None,
    **integrator: Annotated[Any, OptionsOf(Integrator)],
) -> Sampler:
    """The sampler that integrates the probability-flow ODE (Song et al. 2021, section 4.3).

    Args:
      sde: the SDE of the score.
      denoise: end with one noiseless reverse-diffusion step at eps, as score_sde does.
      eps: last time; None for the SDE's t_min.
      t_start: start at this time, from the `x_init` with which the sampler is then called; None to
        start from the noise at T.
      projection: must be None.
      observer: sees the samples once, at the end.
      **integrator: fields of `Integrator`.

    Returns:
      `(rng, score_fn, shape, x_init=None) -> (samples, nfe)`.

    Raises:
      ValueError: for a parameter out of range, and for any projection, because the adaptive solver
        needs a smooth path.
    """
    first, eps = sde.sampling_interval(eps, t_start)
    if projection is not None:
        raise ValueError(
            "sampling.method='ode' follows a smooth path and cannot impose anything between its "
            "steps; set sampling.method='pc'"
        )
    integrate = Integrator(**integrator)

    def sampler(
        rng: jax.Array,
        score_fn: ScoreFn,
        shape: tuple[int, ...],
        x_init: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        x = sde.initial_state(rng, shape, x_init, t_start)
        x, nfe = integrate(get_drift(sde, score_fn), x, first, eps)
        if denoise:
            f, _ = sde.reverse(score_fn).discretize(x, jnp.full(shape[:1], eps))
            x, nfe = x - f, nfe + 1
        observe(observer, jnp.asarray(0), 1, x)
        return x, nfe

    return sampler


def get_encoder(
    sde: SDE,
    *,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    t_start: float | None = None,
    **integrator: Annotated[Any, OptionsOf(Integrator)],
) -> Callable[[ScoreFn, jax.Array], tuple[jax.Array, jax.Array]]:
    """The map from data to latents.

    Args:
      sde: the SDE of the score.
      eps: time assigned to the data; None for the SDE's t_min.
      t_start: time of the latents; None for T.
      **integrator: fields of `Integrator`.

    Returns:
      `(score_fn, x: (B, *S)) -> (z: (B, *S), nfe)`.

    Raises:
      ValueError: for a parameter out of range.
    """
    first, eps = sde.sampling_interval(eps, t_start)
    integrate = Integrator(**integrator)
    return lambda score_fn, x: integrate(get_drift(sde, score_fn), x, eps, first)


def get_decoder(
    sde: SDE,
    *,
    eps: Annotated[float | None, Option("sampling.eps", unset=0.0)] = None,
    t_start: float | None = None,
    **integrator: Annotated[Any, OptionsOf(Integrator)],
) -> Callable[[ScoreFn, jax.Array], tuple[jax.Array, jax.Array]]:
    """The inverse of the encoder with the same arguments: `(score_fn, z) -> (x, nfe)`."""
    first, eps = sde.sampling_interval(eps, t_start)
    integrate = Integrator(**integrator)
    return lambda score_fn, z: integrate(get_drift(sde, score_fn), z, first, eps)


def interpolate(z_a: jax.Array, z_b: jax.Array, weights: jax.Array) -> jax.Array:
    """Interpolates between two latents along the sphere (Shoemake 1985).

    Gaussian latents lie close to a sphere, and a straight line would pass through its inside, where
    there are no latents. The norms are interpolated linearly.

    Args:
      z_a, z_b: latents, each (*S).
      weights: (K,), 0 for z_a and 1 for z_b.

    Returns:
      (K, *S).
    """
    a, b = z_a.reshape(1, -1), z_b.reshape(1, -1)
    norm_a, norm_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    unit_a, unit_b = a / norm_a, b / norm_b
    w = jnp.asarray(weights)[:, None]
    # This form of the angle is exact for nearly parallel latents too.
    angle = 2 * jnp.arctan2(jnp.linalg.norm(unit_a - unit_b), jnp.linalg.norm(unit_a + unit_b))
    arc = (jnp.sin((1 - w) * angle) * unit_a + jnp.sin(w * angle) * unit_b) / jnp.sin(angle)
    arc = ((1 - w) * norm_a + w * norm_b) * arc
    line = (1 - w) * a + w * b  # for parallel latents, and opposite ones, which no unique arc joins
    return jnp.where(jnp.sin(angle) < 1e-6, line, arc).reshape(-1, *z_a.shape)


ODE_SOLVERS = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5}
ERROR_CONTROLS = {"batch": _solve_batch, "sample": _solve_samples}
