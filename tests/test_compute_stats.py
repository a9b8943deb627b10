"""The command line that writes reference statistics."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scorax.configs import base
from scorax.data_sources import digits
from scorax.metrics import features, judge
from scorax.metrics.feature_sets import feature_statistics

ROOT = Path(__file__).resolve().parent.parent
DIGITS = [
    *("--config", "configs/ve/mnist.py", "--config.data.dataset=digits"),
    "--config.data.image_size=8",
]


COMMAND = [sys.executable, "-m", "tools.compute_stats"]


def run(*arguments):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The file of a classifier of the digits, as after a training, which is left out."""
    path = tmp_path_factory.mktemp("classifier") / "digits.safetensors"
    trained_on = {"dataset": "digits", "folder": "", "category": "", "image_size": 8}
    trained_on |= {"num_channels": 1, "split": "train", "num_images": 1500}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            judge,
            "train_judge",
            lambda model, images, labels, steps, seed, show: judge.init_judge(
                model, (8, 8, 1), seed
            ),
        )
        source = digits.load("train")
        load = lambda: (source.images, source.labels)  # noqa: E731
        features.trained_judge(
            str(path), trained_on, (8, 8, 1), load, features.STEPS, features.SEED
        )
    return path


@pytest.mark.slow
def test_statistics_of_the_digits(classifier, tmp_path):
    out = tmp_path / "stats" / "digits.npz"
    arguments = (*DIGITS, f"--config.eval.features_path={classifier}")
    done = run(*arguments, "--split", "test", "--features", "classifier", "--keep", 5, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{out}: 297 images of the test split, 64 features of digits-classifier, those of 5 "
        "images kept\n"
    )
    assert "features: 100%" in done.stderr
    config = base.get_config()
    config.data.update({"dataset": "digits", "image_size": 8, "num_channels": 1})
    config.eval.update({"features": "classifier", "features_path": str(classifier)})
    config.eval.stats = str(out)
    extractor = features.get_feature_extractor(config)
    found = features.get_reference_statistics(config, extractor)
    images = digits.load("test").images
    expected = extractor(images)
    mean, cov = feature_statistics(expected.features)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.cov, cov, rtol=1e-4, atol=1e-6)
    rows = [0, 59, 118, 178, 237]
    np.testing.assert_allclose(found.features, expected.features[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.logits, expected.logits[rows], rtol=1e-4, atol=1e-5)
    assert found.num == 297 and found.provenance["versions"]["jax"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--out", "x.npz"), "the following arguments are required: --config; see --help"),
        ((*DIGITS,), "the following arguments are required: --out; see --help"),
        ((*DIGITS, "--out", "x.npz", "--split", "all"), "argument --split: invalid choice: 'all'"),
        (
            (*DIGITS, "--out", "x.npz", "--features", "vgg"),
            "unknown features (eval.features) 'vgg'",
        ),
        (
            (*DIGITS, "--out", "x.npz", "--features", "inception"),
            "eval.inception_path='' is no file; get pt_inception-2015-12-05-6726825d.pth from",
        ),
    ],
)
def test_impossible_command_lines(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (ROOT / "x.npz").exists()
