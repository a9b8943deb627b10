"""The commands in README and docs run as they are written, long ones in a short form."""

import os
import re
import subprocess
import sys

import pytest

from pages import ROOT, blocks

# What a block has that cannot be run here, and why
LEFT_OUT = {
    "pip install": "the tests run after it, and .ci/run runs it",
    "tools.playground": "test_playground.py tries it in a browser",
    "IMAGES": "a folder of the reader's",
    "SOURCE": "a file of the reader's",
    "inception_path=FILE": "a file that has to be downloaded",
    "checkpoint_24.pth": "a file that has to be downloaded",
    "mine.csv": "a file of the reader's",
    "srun": "a cluster",
    "make_trajectories": "trajectories take minutes; test_trajectories.py simulates a few",
    "config -> SDE": "a drawing",
}
# What has to be run before, as the page says
BEFORE = {"sampling.md": "python main.py --config configs/ve/mnist.py --mode train\n"}
PAGES = ["../README.md", *sorted(path.name for path in (ROOT / "docs").glob("*.md"))]


def commands(page):
    """The blocks of commands on a page that can be run."""
    found = blocks(page, language="")
    return [block for block in found if not any(word in block for word in LEFT_OUT)]


def test_each_reason_to_leave_a_block_out_has_one():
    text = "".join("".join(blocks(page, language="")) for page in PAGES)
    assert [word for word in LEFT_OUT if word not in text] == []


def test_there_are_commands_to_run():
    assert sum(len(commands(page)) for page in PAGES) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_commands_exist(page):
    for block in blocks(page, language=""):
        for name in re.findall(r"(?:configs|pretrained)/[\w/]*\w(?:\.py)?", block):
            if "$" not in block[block.index(name) :][: len(name) + 1]:
                assert (ROOT / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path):
    for entry in ROOT.iterdir():
        if entry.name not in ("runs", "data"):
            (tmp_path / entry.name).symlink_to(entry)
    short = f'python() {{ "{sys.executable}" "{ROOT}/tests/shorten.py" "$@"; }}\nset -e\n'
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        ["bash", "-c", short + BEFORE.get(page, "") + "\n".join(commands(page))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
