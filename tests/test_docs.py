"""The programs in the documentation run, and print what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(page, language="python"):
    """The blocks of code of a page of docs/, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(program, monkeypatch):
    """What a program prints when it is run in the root of the repository, and its names."""
    monkeypatch.chdir(ROOT)
    names, printed = {"__name__": "program"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "program", "exec"), names)
    return printed.getvalue().splitlines(), names


def test_the_page_about_python_has_three_programs():
    assert len(blocks("python.md")) == 3


@pytest.mark.slow
def test_a_trained_network_draws_and_scores(monkeypatch):
    lines, names = run(blocks("python.md")[0], monkeypatch)
    assert lines == ["(16, 28, 28, 1) 20", "(16, 28, 28, 1)"]
    images = names["images"]
    assert images.min() == 0 and 0.5 < images.max() <= 1
    assert 0.05 < images.mean() < 0.25  # digits: bright strokes on black


@pytest.mark.slow
def test_a_measurement_is_followed(monkeypatch):
    lines, names = run(blocks("python.md")[1], monkeypatch)
    assert 0.02 < float(lines[0]) < 0.08  # the mean absolute value of noise of 0.05 is 0.04
    x = names["model"].to_model(names["restored"])
    t = names["jax"].numpy.full(4, 0.3)
    steered = names["posterior"](x, t) - names["model"].score_fn(x, t)
    assert abs(steered).max() > 0.1


def test_a_score_of_ones_own_is_sampled_and_measured(monkeypatch):
    lines, _ = run(blocks("python.md")[2], monkeypatch)
    for line, evaluations in zip(lines[:2], (20, 400), strict=True):
        mean, std, nfe = (float(word) for word in line.split())
        assert abs(mean - 3.0) < 0.05 and abs(std - 0.5) < 0.03 and nfe == evaluations
    assert float(lines[2].strip("[]")) == pytest.approx(0.3257, abs=1e-2)
