"""The task "series": compares the samples of the task "samples" with real series."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from scorax.data_sources.ou import DT
from scorax.evaluators.context import Numbers, TaskContext
from scorax.evaluators.samples import read_archive
from scorax.metrics import recurrent
from scorax.metrics.points import wasserstein_1d
from scorax.metrics.series import autocorrelation, fit_ou
from scorax.utils.pictures import fan
from scorax.utils.plots import plot

_log = logging.getLogger(__name__)

PARAMETERS = ("theta", "mu", "sigma")
_LAGS = 100  # largest lag of the autocorrelation
_SHOWN = (0.03, 0.97)  # quantiles between which fitted parameters are shown and compared


def evaluate_series(context: TaskContext) -> Numbers:
    """Compares samples with series of `eval.split`: `series.{npz,png}`.

    For each channel, the maximum-likelihood parameters of an Ornstein-Uhlenbeck process are fitted
    to every series, real and generated. The report has their medians, spreads (between quartiles)
    and Wasserstein-1 distances, without the outer 3 % on each side. For other data than paths of
    this process they are descriptions, with a unit of time of one point. Further numbers are the
    Wasserstein-1 distance of all values, in standard deviations of the real ones, the largest
    difference of autocorrelations, and the discriminative and predictive scores of
    `metrics.recurrent`, which take `eval.recurrent_steps` training steps each. "predictive_real" is
    the score of a network trained on the real series themselves.
    """
    config, source = context.config, context.source
    generated = read_archive(context.folder)["samples"][: config.eval.num_samples]
    real = context.read(source, np.arange(min(len(source), len(generated))))
    dt = DT if config.data.dataset.lower() == "ou" else 1.0
    lags = min(real.shape[1] - 1, _LAGS)
    both = {"real": real, "generated": generated}
    correlations = {name: autocorrelation(x, lags) for name, x in both.items()}
    fits = {
        name: np.stack([fit_ou(x[..., k], dt) for k in range(x.shape[-1])])
        for name, x in both.items()
    }  # (C, N, 3)
    context.save_npz(
        "series.npz",
        **{f"autocorrelation_{name}": x for name, x in correlations.items()},
        **{f"ou_{name}": x for name, x in fits.items()},
    )
    context.save_drawing("series.png", _plot(both, correlations, fits))
    spread = real.std((0, 1))
    report: Numbers = {
        "split": config.eval.split,
        "num_real": len(real),
        "num_generated": len(generated),
        "ou": [_compare_fits(*(x[k] for x in fits.values())) for k in range(real.shape[-1])],
        "marginal_wasserstein": [
            wasserstein_1d(real[..., k].ravel(), generated[..., k].ravel()) / float(spread[k])
            for k in range(real.shape[-1])
        ],
        "autocorrelation_difference": float(
            np.abs(correlations["real"] - correlations["generated"]).max()
        ),
    }
    return report | _scores(real, generated, config.eval.recurrent_steps, config.seed)


def _compare_fits(real: np.ndarray, generated: np.ndarray) -> Numbers:
    """Medians, spreads and distances of fitted parameters (N, 3) of one channel."""
    found: Numbers = {}
    for k, name in enumerate(PARAMETERS):
        # Fits of single paths have heavy tails, which would decide the distance.
        levels = np.linspace(*_SHOWN, 95)
        quantiles = [np.quantile(x[:, k], levels) for x in (real, generated)]
        numbers = {"wasserstein_trimmed": float(np.abs(np.subtract(*quantiles)).mean())}
        for which, x in (("real", real[:, k]), ("generated", generated[:, k])):
            low, median, high = np.quantile(x, (0.25, 0.5, 0.75))
            numbers |= {f"{which}_median": float(median), f"{which}_spread": float(high - low)}
        found[name] = numbers
    return found


def _scores(real: np.ndarray, generated: np.ndarray, steps: int, seed: int) -> Numbers:
    """The scores by recurrent networks, and their settings; nothing for 0 steps."""
    if not steps:
        return {}
    fewest = min(len(real), len(generated))
    if fewest < recurrent.FEWEST:
        reason = f"the scores need {recurrent.FEWEST} series of each kind, not {fewest}"
        _log.warning("series: %s", reason)
        return {"left_out": reason}
    return {
        "discriminative": recurrent.discriminative_score(real, generated, steps, seed),
        "predictive": recurrent.predictive_score(real, generated, steps, seed),
        "predictive_real": recurrent.predictive_score(real, real, steps, seed),
        "scores": {"network": recurrent.NAME, "steps": steps, "seed": seed},
    }


def _plot(
    both: dict[str, np.ndarray], correlations: dict[str, np.ndarray], fits: dict[str, np.ndarray]
) -> np.ndarray:
    """Quantiles, values, autocorrelation and parameters of the first channel."""
    colors = {"real": "C0", "generated": "C1"}

    def histogram(ax: Any, values: dict[str, np.ndarray], label: str) -> None:
        low, high = np.quantile(values["real"], _SHOWN)
        bins = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 41)
        for name, x in values.items():
            share = np.histogram(x, bins)[0] / (x.size * (bins[1] - bins[0]))
            ax.stairs(share, bins, fill=True, alpha=0.5, color=colors[name], label=name)
        ax.set(xlabel=label, ylabel="density")

    def draw(axes: Sequence[Any]) -> None:
        for name, x in both.items():
            fan(axes[0], x[..., 0], colors[name])
            axes[2].plot(correlations[name][:, 0], color=colors[name], label=name)
        axes[0].set(xlabel="time step", ylabel="value", title="median, 25-75 %, 5-95 %")
        histogram(axes[1], {name: x[..., 0].ravel() for name, x in both.items()}, "value")
        axes[1].legend()
        axes[2].set(xlabel="lag", ylabel="autocorrelation")
        for k, name in enumerate(PARAMETERS):
            histogram(axes[3 + k], {which: x[0, :, k] for which, x in fits.items()}, name)

    return plot(2, 3, draw, (4.0, 3.0))
