"""The programs in the documentation run, and print what they say."""

import pytest

from pages import blocks, run


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


@pytest.mark.slow
def test_a_score_of_ones_own_is_sampled_and_measured(monkeypatch):
    lines, _ = run(blocks("python.md")[2], monkeypatch)
    for line, evaluations in zip(lines[:2], (20, 400), strict=True):
        mean, std, nfe = (float(word) for word in line.split())
        assert abs(mean - 3.0) < 0.05 and abs(std - 0.5) < 0.03 and nfe == evaluations
    assert float(lines[2].strip("[]")) == pytest.approx(0.3257, abs=1e-2)
