"""Model cards: what a reader has to know of weights, in a README.md beside them.

A card is made of the config and of what the folder of the run tells: progress.json (time and
command), versions.json, and the reports of evaluations.
"""

import os
from collections.abc import Iterator
from typing import Any

import ml_collections

from scorax.utils.logging import read_json
from scorax.utils.shapes import example_shape

PROGRESS = "progress.json"  # written with each checkpoint: step, seconds, command
# What of a report is worth a line, besides Fréchet distances: its name there -> as it is shown.
QUANTITIES = {
    "bpd": "bits/dim",
    "nats_per_dim": "nats/dim",
    "exact": "nats/dim of the true density",
    "loss": "loss",
    "FID": "FID",
    "inception_score": "inception score",
    "kid": "KID",
    "classified_as_asked": "share of the requested class",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "crps": "CRPS",
    "coverage_90": "coverage of the central 90 %",
    "rmse_of_mean": "RMSE of the mean",
    "residual": "root mean square of y - A(x)",
    "residual_of_truth": "the same of the truth",
    "accuracy": "accuracy",
}
# Licences that the authors of data sets state. Simulated data need none.
LICENCES = {
    "mnist": "CC BY-SA 3.0 (Yann LeCun, Corinna Cortes)",
    "fashion_mnist": "MIT (Zalando)",
    "celeba": "non-commercial research only, by its authors",
    "ffhq": "CC BY-NC-SA 4.0 (NVIDIA); each photograph has a licence of its own",
    "afhq": "CC BY-NC 4.0 (Clova AI)",
    **dict.fromkeys(
        (
            *("gaussians", "checkerboard", "moons", "swiss_roll", "ou", "sines", "waves"),
            *("lorenz63", "lorenz96", "lotka_volterra", "damped_spring", "trajectories"),
        ),
        "none: the data are simulated",
    ),
}
_UNKNOWN = "not known to scorax; state it before you publish the weights"
_CARD = """# {name}

Averaged (EMA) weights, written by scorax.

* **Network**: `model.name={model}`, {parameters:,} parameters.
* **Trained** under the SDE `{sde}` with the objective `{objective}`.
* **Data**: `data.dataset={dataset}`, examples of shape {shape}. Licence of the data: {licence}.
* **Training**: {steps:,} steps of {batch} examples{time}.
* **Command**: {command}
* **Versions**: {versions}

## Measured

{measured}

## Use

```python
import jax, scorax

model = scorax.load("{path}")
samples, evaluations = model.sample(jax.random.key(0), 16)
```
"""


def headlines(report: dict[str, Any]) -> Iterator[tuple[str, str, float, int | None]]:
    """The numbers of a report that are worth a line: task, quantity, value, number of examples."""
    for task, numbers in report.items():
        if isinstance(numbers, dict) and task not in ("settings", "versions"):
            counts = [v for k, v in numbers.items() if k.startswith("num_") and isinstance(v, int)]
            for name, value in _flat(numbers):
                last = name.split(" ")[-1]
                quantity = QUANTITIES.get(last, last if last.startswith("FD-") else None)
                if quantity is not None and isinstance(value, int | float):
                    shown = name.removesuffix(last).removeprefix("samples ") + quantity
                    yield task, shown, float(value), counts[0] if counts else None


def _flat(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in numbers.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, value


def model_card(
    target: str,
    config: ml_collections.ConfigDict,
    step: int,
    parameters: int,
    run: str | None = None,
) -> str:
    """Returns the card of weights.

    Args:
      target: path of the weights, as users will load them.
      config: the whole config of the training.
      step: number of training steps.
      parameters: number of parameters.
      run: folder of the run; None if there is none.
    """
    data, training = config.data, config.training
    progress = _read(run, PROGRESS)
    seconds = progress.get("seconds") if progress.get("step") == step else None
    versions = _read(run, "versions.json")
    known = ("jax", "device_kind", "device_count", "commit")
    said = ", ".join(f"{key} {versions[key]}" for key in known if versions.get(key))
    report = _read(run, os.path.join("eval", f"step_{step}", "report.json"))
    lines = [
        f"| {task} | {quantity} | {value:.4g} | {count or ''} |"
        for task, quantity, value, count in headlines(report)
    ]
    table = "\n".join(["| task | quantity | value | examples |", "|---|---|---|---|", *lines])
    shape = "x".join(map(str, example_shape(config)))
    return _CARD.format(
        name=os.path.basename(os.path.normpath(target)),
        model=config.model.name,
        parameters=parameters,
        sde=training.sde,
        objective=training.objective,
        dataset=data.dataset,
        shape=shape,
        licence=LICENCES.get(data.dataset.lower(), _UNKNOWN),
        steps=step,
        batch=training.batch_size,
        time=f" in {seconds / 60:.0f} minutes" if seconds else "; the time was not recorded",
        command=f"`{progress['command']}`" if "command" in progress else "not recorded",
        versions=said or "not recorded",
        measured=table if lines else "No evaluation of this step is in the folder of the run.",
        path=target,
    )


def _read(run: str | None, name: str) -> dict[str, Any]:
    """A JSON file of a run; {} if there is none that can be read."""
    try:
        return read_json(os.path.join(run, name)) if run else {}
    except (FileNotFoundError, ValueError):
        return {}
