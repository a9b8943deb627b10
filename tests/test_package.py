"""The package: one copy of each module, light imports, and a wheel that works elsewhere."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import runs
import scorax
from scorax.utils.config_files import find_config, read_config

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["setuptools"]["packages"]


def modules():
    """Names of all modules below `scorax.`, from the files of its packages."""
    for package in PACKAGES:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for path in sorted(folder.glob("*.py")):
            yield ".".join([*package.split(".")[1:], path.stem]).removesuffix("__init__").strip(".")


def has_tables(name):
    """Whether a module defines a table of rows: a dict literal in capitals."""
    base = ROOT.joinpath(*name.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    nodes = ast.parse(path.read_text()).body
    named = [n for n in nodes if isinstance(n, ast.Assign | ast.AnnAssign)]
    targets = [t for n in named for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    dicts = [isinstance(n.value, ast.Dict | ast.DictComp | ast.BinOp) for n in named]
    names = [ast.unparse(t) for t in targets]
    return any(d and n.isupper() for d, n in zip(dicts, names, strict=False))


TABLES = sorted(name for name in modules() if name and has_tables(name))


def python(program, cwd, **env):
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program]
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | env
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_tables():
    assert {"sde_lib", "sampling", "solvers", "evaluators", "conditioning.operators"} <= set(TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["short", "long"])
def test_the_root_on_the_path_gives_no_second_copy(first):
    program = f"""
import importlib
names = {TABLES!r}
prefixes = ("", "scorax.") if {first!r} == "short" else ("scorax.", "")
for name in names:
    one, other = (importlib.import_module(prefix + name) for prefix in prefixes)
    assert one is other, name
    assert one.__name__ == one.__spec__.name == "scorax." + name, (name, one)
import sys
files = [m.__file__ for n, m in sys.modules.items() if n.startswith("scorax.") and m.__file__]
assert len(files) == len(set(files))
print("one copy")
"""
    assert python(program, ROOT) == "one copy"


def test_a_module_found_elsewhere_first_is_not_hidden(tmp_path):
    (tmp_path / "datasets.py").write_text("HERE = True\n")
    program = "import scorax.sde_lib, datasets; print(datasets.HERE)"
    assert python(program, tmp_path) == "True"
    program = f"import sys; sys.path.append({str(ROOT)!r}); {program}"
    assert python(program, tmp_path) == "True"


READERS = {"grain", "h5py", "orbax", "tensorflow_datasets", "matplotlib", "skimage", "PIL"}


def test_samplers_load_no_reader_of_data(tmp_path):
    program = f"""
import importlib, sys
for module in ("solvers", "sampling", "likelihood", "losses", "conditioning"):
    if module == "conditioning":  # masks may be painted: PNG
        print(sorted({READERS!r} & {{name.partition(".")[0] for name in sys.modules}}))
    importlib.import_module("scorax." + module)
print(sorted({READERS - {"PIL"}!r} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    assert python(program, tmp_path).split() == ["[]", "[]"]


def test_the_package_loads_its_modules_when_they_are_used(tmp_path):
    program = """
import sys, scorax
assert "jax" not in sys.modules
print(scorax.sde_lib.VPSDE().N, scorax.conditioning.MMPS.__name__, scorax.load.__name__)
"""
    assert python(program, tmp_path) == "1000 MMPS load"
    with pytest.raises(AttributeError, match="no attribute 'sampler'"):
        _ = scorax.sampler


def test_every_folder_with_code_is_in_the_wheel():
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {Path(name).parent for name in tracked} - {Path("tests"), Path("benchmarks")}
    expected = {".".join(["scorax", *folder.parts]) for folder in folders}
    assert set(PACKAGES) == expected


def test_configs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    path = str(ROOT / "configs" / "ve" / "mnist.py")
    monkeypatch.chdir(tmp_path)
    for name in ("ve/mnist", "configs/ve/mnist.py", path):
        assert find_config(name) == path
    assert find_config("ve/ncsn/cifar10:smoke").endswith("configs/ve/ncsn/cifar10.py:smoke")
    assert read_config("ve/mnist:smoke").data.image_size == 8
    with pytest.raises(ValueError, match="directory: 've/minst', and no .*; did you mean ve/mnist"):
        find_config("ve/minst")
    with pytest.raises(ValueError, match="directory: '../tests/runs.py'"):
        find_config("../tests/runs.py")
    (tmp_path / "empty.py").touch()
    with pytest.raises(ValueError, match="empty.py is no config; it needs a get_config"):
        read_config("empty.py")


@pytest.mark.slow
def test_a_wheel_trains_and_evaluates_in_another_folder(tmp_path):
    """Built from a clone and installed beside the dependencies; the clone is not on the path."""
    wheels, site, cache = (tmp_path / name for name in ("wheels", "site", "cache"))
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True
    )
    (wheel,) = wheels.glob(f"scorax-{scorax.__version__}-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    assert not (site / "scorax" / "tests").exists()
    env = runs.environment(cache, PYTHONPATH=str(site))
    where = python("import scorax; print(scorax.__file__)", tmp_path, PYTHONPATH=str(site))
    assert Path(where) == site / "scorax" / "__init__.py"
    flags = [f"--config.{key}={value}" for key, value in runs.TINY.items()]
    for mode in ("train", "eval"):
        command = [sys.executable, "-m", "scorax.main", "--config", "ve/mnist:smoke"]
        command += ["--mode", mode, *flags]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "ve" / "mnist_smoke"
    assert (run / "eval" / "step_8" / "samples.png").is_file()
