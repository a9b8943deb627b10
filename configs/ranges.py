"""Ranges of numbers in a config that no other code checks.

A value out of range would otherwise go unnoticed, and spoil training or sampling. Types need no
table, because `configs/base.py` fixes the type of every key.
"""

import math

import ml_collections

# "section.key" -> smallest and largest value
RANGES: dict[str, tuple[float, float]] = {
    "training.p_std": (1e-6, math.inf),
    "model.sigma_data": (1e-6, math.inf),
    "model.patch": (1, math.inf),
    "model.ema_rate": (0, 1),
    "model.dropout": (0, 0.999),
    "model.label_dropout": (0, 1),
    "optim.lr": (0, math.inf),
    "optim.warmup": (0, math.inf),
    "optim.beta1": (0, 0.999999),
    "optim.beta2": (0, 0.999999),
    "optim.weight_decay": (0, math.inf),
    "eval.num_samples": (1, math.inf),
    "eval.recurrent_steps": (0, math.inf),
    "eval.mask_points": (0, math.inf),
    "eval.states": (0, math.inf),
    "eval.observe_every": (1, math.inf),
    "eval.windows_at_once": (0, math.inf),
    "eval.frames": (0, math.inf),
    "eval.num_examples": (0, math.inf),
    "eval.num_encoded": (1, math.inf),
    "eval.num_pairs": (1, math.inf),
    "eval.num_points": (2, math.inf),
    "eval.num_denoised": (1, math.inf),
    "eval.num_conditioned": (1, math.inf),
    "eval.samples_per_image": (1, math.inf),
    "eval.resampling_steps": (0, math.inf),
    "eval.likelihood_iterations": (0, math.inf),
    "eval.zeta": (0, math.inf),
}


def check_ranges(config: ml_collections.ConfigDict) -> None:
    """Checks all numbers with a range.

    Raises:
      ValueError: naming the first field out of range, its value and the allowed values.
    """
    for field, (low, high) in RANGES.items():
        section, key = field.split(".")
        if not low <= config[section][key] <= high:
            bounded = math.isfinite(high)
            rule = f"lie between {low:g} and {high:g}" if bounded else f"be at least {low:g}"
            raise ValueError(f"{field}={config[section][key]} must {rule}")
