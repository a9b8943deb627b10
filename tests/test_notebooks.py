"""The notebooks run, are small, and use nothing that a user could not."""

import ast
import os

import nbformat
import pytest
from nbclient import NotebookClient

from pages import ROOT

# In what the test of a long notebook is shorter than the notebook
SHORTER = {
    "02_mnist.ipynb": {
        "n_iters=200": "n_iters=4",
        '"steps": 80': '"steps": 4',
        '"steps": 160': '"steps": 4',
        '"ddim": (5, 10, 20), "dpmpp_2m": (5, 10, 20)': '"ddim": (5,)',
        "few = real[:10]": "few = real[:1]",
        ', "upside down": few[:, ::-1], "noise": noise}': "}",
    },
    "03_conditioning.ipynb": {'"steps": 20': '"steps": 4', "steps=18": "steps=4"},
    "04_time_series.ipynb": {"samples_per_image=16": "samples_per_image=4"},
    "05_data_assimilation.ipynb": {
        "samples_per_image=48, batch_size=48)": "samples_per_image=4, batch_size=4)",
        "samples_per_image=2, batch_size=2)": "batch_size=2, samples_per_image=2)\n"
        "config.sampling.steps = 4",
    },
    "06_your_own_data.ipynb": {"n_iters=400": "n_iters=40"},
}
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def read(name):
    return nbformat.read(ROOT / "notebooks" / name, as_version=4)


def test_there_are_six_in_order():
    assert [name[:2] for name in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_small_and_has_its_pictures(name):
    assert (ROOT / "notebooks" / name).stat().st_size < 1_000_000
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_uses_public_names_only(name):
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                assert node.module.partition(".")[0] not in ("tests", "benchmarks", "tools")
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
            else:
                names = [node.attr] if isinstance(node, ast.Attribute) else []
            assert not any(n.startswith("_") and not n.startswith("__") for n in names), names


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name):
    notebook, missing = read(name), set(SHORTER.get(name, ()))
    for cell in notebook.cells:
        for text, shorter in SHORTER.get(name, {}).items():
            if cell.cell_type == "code" and text in cell.source:
                cell.source = cell.source.replace(text, shorter)
                missing.discard(text)
    assert not missing
    resources = {"metadata": {"path": str(ROOT)}}
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    drawn = [bool(cell.get("outputs")) for cell in notebook.cells]
    NotebookClient(notebook, timeout=900, resources=resources).execute(env=environment)
    assert [bool(cell.get("outputs")) for cell in notebook.cells] == drawn
