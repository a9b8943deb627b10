"""Which file may know what, read off the source: the rules of the design, held by a test."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = [p.split(".")[1:] for p in PROJECT["tool"]["setuptools"]["packages"]] + [["benchmarks"]]
PATHS = {
    ".".join([*folder, path.stem]).removesuffix("__init__").rstrip("."): path
    for folder in FOLDERS
    for path in sorted(ROOT.joinpath(*folder).glob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}

# The rooms from the bottom up: a module imports from rooms before its own, or from its own. The
# module "" is the package itself.
ROOMS = [
    *("utils", "configs", "data_sources", "sde_lib", "datasets", "models", "noise_levels"),
    *("weights", "losses", "solvers", "likelihood", "sampling", "conditioning"),
    *(
        "controllable_generation",
        "experiment",
        "steps",
        "loading",
        "metrics",
        "conversion",
        "evaluators",
    ),
    *("evaluators", "planning", "run_lib", "main", "tools", "benchmarks"),
]
# What of this project a module, or all modules of a package, may import at most besides itself.
ARRAYS = {"utils.arrays", "utils.tables"}
SHAPES = {"utils.shapes", "utils.tables"}
SAMPLERS = {"sde_lib", "solvers", "utils.options", "utils.progress"} | ARRAYS
ONLY = {
    "": {"utils.one_copy"},
    "utils": set(),
    "configs": SHAPES,
    "data_sources": {"utils.logging", "utils.fields"} | SHAPES,
    "sde_lib": {"utils.schedules"} | ARRAYS,
    "datasets": {"data_sources", "utils.data_range", "utils.fields", "utils.parallel"}
    | ARRAYS
    | SHAPES,
    "models": ARRAYS,
    "models.utils": {"sde_lib", "utils.options"} | ARRAYS | SHAPES,
    "noise_levels": {"sde_lib", "utils.options"} | ARRAYS,
    "losses": {"models.utils", "noise_levels", "sde_lib"} | ARRAYS,
    "solvers": SAMPLERS,
    "likelihood": SAMPLERS | {"utils.data_range", "utils.embeddings"} | SHAPES,
    "sampling": SAMPLERS,
    "conditioning": SAMPLERS | SHAPES | {"sampling", "utils.fields"},
    "controllable_generation": SAMPLERS | {"sampling", "conditioning"},
    "metrics": ARRAYS,
    "metrics.filtering": {"data_sources.dynamics"},
    "metrics.features": {"data_sources.source", "datasets", "metrics", "utils", "weights"},
    "weights": {"models", "utils.checkpoints"} | ARRAYS | SHAPES,
}


def imports(tree):
    """Full names of the modules a file imports; of `from a import b` a.b if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [n for n in names if n.removeprefix("scorax.") in TREES]
            yield from found or [node.module]


def within(name, allowed):
    return any(name == a or name.startswith(a + ".") for a in allowed)


def ours(tree):
    """The modules of this project that a file imports, without the name of the package."""
    names = set(imports(tree))
    inside = {n.removeprefix("scorax.") for n in names if n.startswith("scorax.")}
    return inside | {n for n in names if n.partition(".")[0] == "benchmarks"}


def room(name):
    return name.partition(".")[0]


def test_modules_are_found():
    assert {"run_lib", "sde_lib", "models.utils", "utils.parallel", "configs.base"} <= set(TREES)
    assert not any("site-packages" in str(path) for path in PATHS.values())


def test_every_module_has_a_room_and_every_rule_a_module():
    assert {room(name) for name in TREES if name} == set(ROOMS)
    assert set(ONLY) <= set(TREES)
    for allowed in ONLY.values():
        assert all(name in TREES for name in allowed), allowed


@pytest.mark.parametrize("name", sorted(TREES))
def test_dependencies_point_one_way(name):
    others = ours(TREES[name])
    assert all(other in TREES for other in others), "imports of modules that do not exist"
    for other in others:
        if name:
            lower = ROOMS.index(room(other)) <= ROOMS.index(room(name))
            assert lower, f"{name} imports {other}, which is not below it"
        allowed = ONLY.get(name, ONLY.get(room(name)))
        if allowed is not None and room(other) != room(name):
            assert within(other, allowed), f"{name} imports {other}; it may know {allowed}"
        runs = name == "main" or room(name) in ("benchmarks", "tools")
        assert other != "main" and (other != "run_lib" or runs), f"{name} imports {other}"


def test_no_import_cycles():
    graph = {name: ours(tree) & set(TREES) - {name} for name, tree in TREES.items()}
    while free := {name for name, others in graph.items() if not others}:
        graph = {name: others - free for name, others in graph.items() if name not in free}
    assert not graph, f"a cycle among {sorted(graph)}"


def test_architectures_know_flax_only():
    for name in TREES:
        if room(name) == "models" and name != "models.utils":
            assert "ml_collections" not in set(imports(TREES[name])), name


@pytest.mark.parametrize("name", sorted(TREES))
def test_only_what_is_installed_is_imported(name):
    tops = {n.split(".")[0] for n in imports(TREES[name])}
    assert not tops & {"tensorflow", "torch", "haiku"}, name
    ours_or_builtin = {"benchmarks", "scorax"} | set(sys.stdlib_module_names)
    allowed = {
        *("absl", "flax", "grain", "jax", "ml_collections", "numpy", "optax", "orbax", "PIL"),
        *("scipy", "sklearn", "tensorboardX", "tqdm", "matplotlib", "h5py", "diffrax", "exponax"),
        *(
            "array_record",
            "msgpack",
            "skimage",
            "safetensors",
            "etils",
            "tensorflow_datasets",
            "pandas",
        ),
    }
    allowed |= {"ot"} if room(name) == "benchmarks" else set()
    allowed |= {"gradio"} if name.startswith("tools.playground") else set()
    allowed |= {"wandb"} if name == "utils.writers" else set()  # asked for by training.wandb
    assert tops <= ours_or_builtin | allowed, f"{name}: {tops - ours_or_builtin - allowed}"


COUNTS = {
    *("device_count", "local_device_count", "devices", "local_devices"),
    *("process_count", "process_index", "host_count", "host_id"),
}


def test_only_parallel_asks_for_devices_and_processes():
    for name, tree in TREES.items():
        if name == "utils.parallel" or name.split(".")[0] in ("benchmarks", "tools"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in COUNTS:
                of = ast.unparse(node.value)
                planned = name == "planning" and of.startswith("topologies.")
                assert of == "parallel" or planned, f"{name}:{node.lineno} reads {of}.{node.attr}"


BUILDERS = ("get_", "_get_", "init_", "_adam", "_check_", "_parametrization_name")
NAME_NO_CONFIG = (
    *("sde_lib", "losses", "sampling", "solvers", "likelihood", "conditioning", "noise_levels"),
    *("controllable_generation", "models", "datasets", "metrics"),
)


@pytest.mark.parametrize("name", [n for n in TREES if room(n) in NAME_NO_CONFIG])
def test_only_builders_name_config(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith(BUILDERS):
            arguments = [a.arg for a in node.args.args + node.args.kwonlyargs]
            assert "config" not in arguments, f"{name}:{node.lineno} {node.name} takes a config"


@pytest.mark.parametrize("name", sorted(TREES))
def test_what_differs_between_sdes_is_asked_of_them(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            classes = ast.unparse(node.args[1])
            assert "SDE" not in classes, f"{name}:{node.lineno} isinstance(..., {classes})"


EXPERIMENTS = [n for n in TREES if n.startswith("configs.") and n.count(".") > 1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_short_and_say_how_to_run_them(name):
    path = PATHS[name].relative_to(ROOT).as_posix()
    assert len((ROOT / path).read_text().splitlines()) <= 40
    assert f"python main.py --config {path} --mode train" in ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", sorted(TREES))
def test_files_say_what_they_own_and_functions_stay_short(name):
    assert ast.get_docstring(TREES[name]) or not TREES[name].body, f"{name} has no docstring"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef) and (name, node.name) != (
            "configs.base",
            "get_config",
        ):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            length = node.end_lineno - first.lineno + 1
            most = 150 if node.name == "__call__" else 60
            assert length <= most, f"{name}:{node.lineno} {node.name} has {length} lines"


def test_main_is_flags_and_dispatch():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 80
