"""Which file may know what, read off the source: the rules of the design, held by a test."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(
    p
    for p in ROOT.rglob("*.py")
    if p.relative_to(ROOT).parts[0] not in ("tests", "runs", "data")
    and not p.relative_to(ROOT).parts[0].startswith(".")
)
TREES = {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p for p in CODE}
TREES = {name.removesuffix(".__init__"): ast.parse(p.read_text()) for name, p in TREES.items()}

# Layers from the bottom up: a module imports from lower ones, or from its own where it says so.
LAYERS = [
    {"utils.arrays", "utils.trees", "utils.progress"},
    {"sde_lib"},
    {"models.utils", "noise_levels"},
    {"solvers", "probability_flow"},
    {"losses", "likelihood", "sampling", "guidance", "operators", "masks"},
    {"posterior", "controllable_generation", "denoising"},
    {"experiment"},
    {"features"},
    {"evaluators"},
    {"run_lib"},
    {"main"},
]
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer}
WITHIN_A_LAYER = {("controllable_generation", "posterior")}
# module or package -> what of this repository it may import at most, besides its own package
ONLY = {
    "evaluation": {"neighbour_metrics", "point_metrics", "utils.arrays"},
    "neighbour_metrics": {"point_metrics"},
    "point_metrics": set(),
    "image_metrics": set(),
    "evaluators": {
        *("experiment", "sampling", "likelihood", "probability_flow", "features", "evaluation"),
        *("image_metrics", "datasets", "losses", "noise_levels", "sde_lib", "utils"),
        *("controllable_generation", "posterior", "operators", "masks", "guidance", "denoising"),
    },
    "features": {"datasets", "data_sources", "evaluation", "models", "utils"},
    "data_sources": set(),
    "datasets": {"data_sources", "utils.arrays", "utils.parallel"},
    "configs": set(),
    "utils": set(),
    "sde_lib": {"utils.arrays"},
    "noise_levels": {"sde_lib", "utils.arrays"},
    "sampling": {"sde_lib", "solvers", "probability_flow", "utils.arrays", "utils.progress"},
    "solvers": {"sde_lib", "utils.arrays", "utils.progress"},
    "probability_flow": {"sde_lib", "utils.arrays", "utils.progress"},
    "likelihood": {"datasets", "sde_lib", "probability_flow", "utils.arrays"},
    "posterior": {"sde_lib", "utils.arrays"},
    "controllable_generation": {"sde_lib", "sampling", "masks", "operators", "utils.arrays"},
    "guidance": {"sde_lib", "utils.arrays"},
    "denoising": {"sde_lib", "sampling", "utils.arrays"},
    "operators": {"utils.arrays"},
    "masks": {"utils.arrays"},
    "models": {"models", "utils.arrays"},
    "models.utils": {"models", "sde_lib", "utils.arrays"},
}


def imports(tree):
    """Full names of the modules a file imports; of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [n for n in names if n in TREES] or [node.module]


def within(name, allowed):
    return any(name == a or name.startswith(a + ".") for a in allowed)


def ours(tree):
    return {name for name in imports(tree) if name in TREES or name.split(".")[0] in TREES}


def rule(name):
    """The row of ONLY for a module: its own or that of its package."""
    return ONLY.get(name, ONLY.get(name.split(".")[0]))


def test_modules_are_found():
    assert {"run_lib", "sde_lib", "models.utils", "utils.parallel", "configs.base"} <= set(TREES)


@pytest.mark.parametrize("name", sorted(TREES))
def test_dependencies_point_one_way(name):
    for other in ours(TREES[name]):
        if name in LEVEL and other in LEVEL:
            ok = LEVEL[other] < LEVEL[name] or (name, other) in WITHIN_A_LAYER
            assert ok, f"{name} imports {other}, which is not below it"
        allowed = rule(name)
        if allowed is not None and name.split(".")[0] != other.split(".")[0]:
            assert within(other, allowed), f"{name} imports {other}; it may know {allowed}"
        assert other != "main" and (other != "run_lib" or name in RUNNERS), (
            f"{name} imports {other}"
        )


RUNNERS = {"main", *(n for n in TREES if n.split(".")[0] in ("benchmarks", "tools"))}


def test_no_import_cycles():
    graph = {name: ours(tree) & set(TREES) - {name} for name, tree in TREES.items()}
    while free := {name for name, others in graph.items() if not others}:
        graph = {name: others - free for name, others in graph.items() if name not in free}
    assert not graph, f"a cycle among {sorted(graph)}"


def test_architectures_know_flax_only():
    for name in TREES:
        if name.startswith("models.") and name not in ("models.utils", "models.convert"):
            assert not within("sde_lib", imports(TREES[name])), name
            assert not within("ml_collections", imports(TREES[name])), name


@pytest.mark.parametrize("name", sorted(TREES))
def test_only_what_is_installed_is_imported(name):
    tops = {n.split(".")[0] for n in imports(TREES[name])}
    assert not tops & {"tensorflow", "torch", "haiku"}, name
    ours_or_builtin = {n.split(".")[0] for n in TREES} | set(sys.stdlib_module_names)
    allowed = {
        *("absl", "flax", "grain", "jax", "ml_collections", "numpy", "optax", "orbax", "PIL"),
        *("scipy", "sklearn", "tensorboardX", "tqdm", "matplotlib", "h5py", "diffrax"),
        *("array_record", "msgpack", "skimage", "safetensors", "tensorflow_datasets"),
    }
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
                described = (name, node.attr) == ("utils.logging", "local_devices")
                assert of == "parallel" or described, f"{name}:{node.lineno} reads {of}.{node.attr}"


BUILDERS = ("get_", "_get_", "init_model", "_adam", "_configured_", "_parametrization_name")
NAME_NO_CONFIG = ("sde_lib", "losses", "sampling", "solvers", "likelihood", "posterior")
NAME_NO_CONFIG += ("controllable_generation", "models.utils", "evaluation", "datasets")


@pytest.mark.parametrize("name", [n for n in NAME_NO_CONFIG if n in TREES])
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
    path = name.replace(".", "/") + ".py"
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
