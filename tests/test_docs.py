"""The programs in the documentation run, and print what they say."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from pages import ROOT, blocks, run


def test_the_page_about_python_has_three_programs():
    assert len(blocks("python.md")) == 3


@pytest.mark.slow
def test_the_program_of_the_readme_runs(monkeypatch):
    (program,) = blocks("../README.md")
    assert len(program.splitlines()) <= 12
    _, names = run(program, monkeypatch)
    assert names["digits"].shape == names["restored"].shape == (16, 28, 28, 1)
    misfit = names["blocks"](names["model"].to_model(names["restored"])) - names["y"]
    assert 0.03 < float((misfit**2).mean() ** 0.5) < 0.1  # the noise is 0.05


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


PAGES = sorted((ROOT / "docs").glob("*.md")) + [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pretrained/README.md")
]
PAGES.append(ROOT / "benchmarks" / "RESULTS.md")


def anchors(page):
    """What links to a page can name, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"\]\([^)]*\)", "", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_broken(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_says_what_it_is_for_and_is_found():
    """The first line after the title is a sentence, and the index or a page of it leads there."""
    linked = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in PAGES[:-5]:
        title, empty, first = page.read_text(encoding="utf-8").split("\n")[:3]
        assert title.startswith("# ") and not empty and first[0].isalpha(), page.name
        assert page.name in linked and page.name in (ROOT / "mkdocs.yml").read_text()


def test_the_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:15])


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs requirements-docs.txt")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert "get_pc_sampler" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["points.md", "data_assimilation.md"])
def test_the_programs_of_a_page_run(page, monkeypatch):
    for program in blocks(page):
        _, names = run(program, monkeypatch)
        assert np.isfinite(names["points" if page == "points.md" else "x"]).all()
