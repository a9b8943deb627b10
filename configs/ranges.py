"""The values that every key of a config may take: one table, checked before anything else.

A value out of range would otherwise go unnoticed and spoil training or sampling, or fail far from
its cause. `RULES` has a row for every key of `configs/base.py`. Its upper ends are far beyond any
use; they keep a slip of the keyboard from taking all memory, or hours of time.

Names of tables' rows, files, and what depends on several keys are checked by the parts that use
them.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import ml_collections

from scorax.utils.shapes import height_and_width

# A rule says what is wrong with a value, as in "must be at least 1"; "" if nothing is.
Rule = Callable[[Any], str]
MOST = 10**9


@dataclasses.dataclass(frozen=True)
class Number:
    """Finite numbers from `low` to `high`.

    Attributes:
      low, high: the smallest and the largest number.
      above: whether `low` itself is too small.
      whole: whether the number must be whole.
    """

    low: float = -MOST
    high: float = MOST
    above: bool = False
    whole: bool = False

    def __call__(self, value: Any) -> str:
        wanted = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, wanted):
            return f"must be a {'whole ' if self.whole else ''}number"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'greater than' if self.above else 'at least'} {_text(self.low)}"
        if value > self.high:
            return f"must be at most {_text(self.high)}"
        return "must be a number" if math.isnan(value) else ""


@dataclasses.dataclass(frozen=True)
class Each:
    """Tuples of `fewest` to `most` values that follow a rule."""

    rule: Rule
    fewest: int = 0
    most: int = 10**6

    def __call__(self, value: Any) -> str:
        if not isinstance(value, tuple):
            return "must be a tuple"
        if not self.fewest <= len(value) <= self.most:
            return f"must have {self.fewest} to {_text(self.most)} values"
        wrong = [(x, said) for x in value if (said := self.rule(x))]
        return f"has {wrong[0][0]!r}, which {wrong[0][1]}" if wrong else ""


def switch(value: Any) -> str:
    """True or False."""
    return "" if isinstance(value, bool) else "must be True or False"


def text(value: Any) -> str:
    """Any text."""
    return "" if isinstance(value, str) else "must be text"


def count(low: int, high: int = MOST) -> Number:
    """Whole numbers from `low` to `high`."""
    return Number(low, high, whole=True)


def _size(value: Any) -> str:
    return count(1, 2**16)(max(height_and_width(value)))


def _label(value: Any) -> str:
    return "" if not text(value) or not count(0)(value) else "must be the number or name of a class"


def _taps(value: Any) -> str:
    said = Each(Number(), 1, 1000)(value)
    return said or ("" if sum(value) else "must not have the sum 0, by which it is divided")


def _grad_clip(value: Any) -> str:
    off = "must not be 0, which would stop training; a negative number turns clipping off"
    return Number()(value) or ("" if value else off)


def _text(x: float) -> str:
    return f"{x:,d}" if isinstance(x, int) else f"{x:g}"


_any, _from_0, _above_0, _to_1 = Number(), Number(0), Number(0, above=True), Number(0, 1)

RULES: dict[str, Rule] = {
    "seed": count(0, 2**32 - 1),
    "training.sde": text,
    "training.continuous": switch,
    "training.objective": text,
    "training.likelihood_weighting": switch,
    "training.importance_sampling": switch,
    "training.reduce_mean": switch,
    "training.p_mean": Number(-50, 50),
    "training.p_std": Number(1e-6, 50),
    "training.batch_size": count(1, 10**6),
    "training.accumulate": count(1, 10**6),
    "training.n_iters": count(1),
    "training.max_skipped": count(0),
    "training.n_jitted_steps": count(1, 10**6),
    "training.log_freq": count(1),
    "training.eval_freq": count(1),
    "training.snapshot_freq": count(1),
    "training.snapshot_freq_for_preemption": count(1),
    "training.init_from": text,
    "training.snapshot_sampling": switch,
    "training.wandb": text,
    "training.profile_steps": count(0, 1000),
    "parallel.strategy": text,
    "sampling.method": text,
    "sampling.predictor": text,
    "sampling.corrector": text,
    "sampling.steps": count(0, 10**6),
    "sampling.eps": _from_0,
    "sampling.n_steps_each": count(0, 10**6),
    "sampling.snr": _from_0,
    "sampling.probability_flow": switch,
    "sampling.noise_removal": switch,
    "sampling.corrector_min": _from_0,
    "sampling.corrector_max": _from_0,
    "sampling.corrector_last": switch,
    "sampling.grid": text,
    "sampling.rho": _above_0,
    "sampling.order": count(1, 3),
    "sampling.s_churn": _from_0,
    "sampling.s_min": _from_0,
    "sampling.s_max": _from_0,
    "sampling.s_noise": _from_0,
    "sampling.abs_tol": _above_0,
    "sampling.rel_tol": _above_0,
    "sampling.ode_solver": text,
    "sampling.error_control": text,
    "sampling.rtol": _above_0,
    "sampling.atol": _above_0,
    "eval.tasks": Each(text),
    "eval.checkpoint": text,
    "eval.batch_size": count(1, 10**6),
    "eval.num_samples": count(1),
    "eval.recurrent_steps": count(0),
    "eval.save_images": switch,
    "eval.frames": count(0, 10**4),
    "eval.features": text,
    "eval.inception_path": text,
    "eval.features_path": text,
    "eval.stats": text,
    "eval.split": text,
    "eval.num_examples": count(0),
    "eval.num_encoded": count(1),
    "eval.num_pairs": count(1),
    "eval.num_points": count(2, 10**4),
    "eval.noise_std": _above_0,
    "eval.denoisers": Each(text),
    "eval.num_denoised": count(1),
    "eval.langevin_eta": _above_0,
    "eval.langevin_steps": count(1, 10**6),
    "eval.images": text,
    "eval.measurements": text,
    "eval.num_conditioned": count(1),
    "eval.samples_per_image": count(1),
    "eval.mask": text,
    "eval.mask_points": count(0),
    "eval.mask_channels": Each(count(0)),
    "eval.mask_amount": text,
    "eval.resampling_steps": count(0, 10**6),
    "eval.resampling_jump": count(1, 10**6),
    "eval.known_likelihood": text,
    "eval.color_basis": text,
    "eval.operator": text,
    "eval.operator_factor": count(1, 2**16),
    "eval.operator_width": _above_0,
    "eval.operator_length": Number(1),
    "eval.operator_angle": _any,
    "eval.operator_fraction": Number(0, 1, above=True),
    "eval.measurement_std": _from_0,
    "eval.likelihood": text,
    "eval.states": count(0, 10**6),
    "eval.observation": text,
    "eval.observe_every": count(1, 10**6),
    "eval.observe_component": count(0, 10**6),
    "eval.windows_at_once": count(0, 10**6),
    "eval.likelihood_iterations": count(0, 1000),
    "eval.gamma": _from_0,
    "eval.zeta": _from_0,
    "eval.data_variance": _above_0,
    "eval.bpd_estimator": text,
    "eval.bpd_probes": count(1, 10**6),
    "eval.bpd_repeats": count(1, 10**6),
    "eval.bpd_eps": _above_0,
    "eval.bpd_rtol": _above_0,
    "eval.bpd_atol": _above_0,
    "guidance.classifier": text,
    "guidance.checkpoint": text,
    "guidance.schedule": text,
    "guidance.weight": _any,
    "guidance.weight_beyond": _any,
    "guidance.sigma_min": _from_0,
    "guidance.sigma_max": _from_0,
    "guidance.clamp": _from_0,
    "guidance.labels": Each(_label),
    "data.kind": text,
    "data.dataset": text,
    "data.dir": text,
    "data.category": text,
    "data.image_size": _size,
    "data.num_channels": count(1, 10**5),
    "data.background": text,
    "data.value_range": Each(_any, 0, 2),
    "data.classes": Each(text),
    "data.length": count(0, 10**7),
    "data.stride": count(1, 10**7),
    "data.columns": Each(text),
    "data.embedding": text,
    "data.delay": count(1, 10**6),
    "data.n_fft": count(1, 10**6),
    "data.hop": count(1, 10**6),
    "data.mean": Each(_any),
    "data.scale": Each(_above_0),
    "data.centered": switch,
    "data.random_flip": switch,
    "data.random_shift": count(0, 2**16),
    "data.random_symmetry": switch,
    "data.uniform_dequantization": switch,
    "data.num_threads": count(1, 1000),
    "simulation.trajectories": count(1),
    "simulation.states": count(1),
    "simulation.warm_up": count(0),
    "simulation.interval": _above_0,
    "simulation.resolution": count(1, 2**14),
    "simulation.viscosity": _above_0,
    "simulation.drag": _from_0,
    "simulation.wavenumber": count(0, 2**14),
    "simulation.inner_steps": count(0),
    "model.name": text,
    "model.parametrization": text,
    "model.sigma_data": Number(1e-6),
    "model.sigma_min": _above_0,
    "model.sigma_max": _above_0,
    "model.sigma_base": _above_0,
    "model.beta_min": _from_0,
    "model.beta_max": _above_0,
    "model.eta": _above_0,
    "model.signal": text,
    "model.noise": text,
    "model.num_scales": count(1, 10**6),
    "model.ema_rate": _to_1,
    "model.ema_warmup": switch,
    "model.dropout": Number(0, 0.999),
    "model.nf": count(1, 2**14),
    "model.ch_mult": Each(count(1, 1000), 1, 16),
    "model.num_res_blocks": count(1, 100),
    "model.attn_resolutions": Each(count(1, 2**16)),
    "model.normalization": text,
    "model.interpolation": text,
    "model.forcing": count(0, 2**14),
    "model.dilations": Each(count(1, 10**6), 1, 100),
    "model.patch": count(1, 2**10),
    "model.original": text,
    "model.nonlinearity": text,
    "model.resamp_with_conv": switch,
    "model.conditional": switch,
    "model.num_classes": count(0, 10**6),
    "model.label_dropout": _to_1,
    "model.fir": switch,
    "model.fir_kernel": _taps,
    "model.skip_rescale": switch,
    "model.resblock_type": text,
    "model.progressive": text,
    "model.progressive_input": text,
    "model.progressive_combine": text,
    "model.embedding_type": text,
    "model.fourier_scale": _from_0,
    "model.init_scale": _from_0,
    "model.color_mean": Each(_any),
    "model.color_std": Each(_above_0),
    "model.scale_by_sigma": switch,
    "model.dtype": text,
    "model.remat": switch,
    "optim.optimizer": text,
    "optim.lr": Number(0, 1000),
    "optim.schedule": text,
    "optim.warmup": count(0),
    "optim.beta1": Number(0, 0.999999),
    "optim.beta2": Number(0, 0.999999),
    "optim.eps": _from_0,
    "optim.weight_decay": _from_0,
    "optim.grad_clip": _grad_clip,
}


def check_ranges(config: ml_collections.ConfigDict) -> None:
    """Checks every key of a config that has a rule.

    Raises:
      ValueError: naming the first field that breaks its rule, its value and the rule.
    """
    for field, rule in RULES.items():
        section, _, key = field.rpartition(".")
        value = (config[section] if section else config)[key]
        if said := rule(value):
            raise ValueError(f"{field}={value!r} {said}")
