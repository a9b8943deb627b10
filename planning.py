"""What training and sampling will take on devices that need not be there, from their compiler.

Train step, eval step and sampler are compiled for a topology such as "v5e:2x4" (eight chips of TPU
v5e) or for the devices at hand. All numbers are for one device. Memory and operations are the
compiler's; times follow from operations, the peak of the chip (`utils.hardware`) and a utilisation
that the caller states.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies

from scorax import steps
from scorax.evaluators.batch_sampler import BatchSampler
from scorax.experiment import Experiment, build
from scorax.utils import parallel
from scorax.utils.bars import elapsing
from scorax.utils.hardware import Chip, get_chip
from scorax.utils.logging import read_json, write_json
from scorax.utils.shapes import model_shape

_LIBTPU = "TPU_LIBRARY_PATH"  # as JAX reads it
# Keeps the compiler from looking for a TPU, and from warning that it found none.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs there, so that several may plan at once
}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")
_USED = re.compile(r"Used ([\d.]+\w?) of ([\d.]+\w?) (\w+)")


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, by what it takes on each device; sizes in bytes.

    Attributes:
      name: what it does.
      seconds: time to compile it.
      flops: floating-point operations of one step; 0 of a sampler, whose loops are counted once.
      arguments: state and batch.
      temporaries: activations, gradients and everything else that is there only while it runs.
      code: the program itself.
      traffic: results of collective operations, with loops counted once.
      too_large: why it does not fit, in the compiler's words; "" if it does. Then the other numbers
        are 0.
    """

    name: str
    seconds: float = 0.0
    flops: float = 0.0
    arguments: int = 0
    temporaries: int = 0
    code: int = 0
    traffic: int = 0
    too_large: str = ""

    @property
    def memory(self) -> int:
        """All memory that it takes."""
        return self.arguments + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices that are planned for.

    Attributes:
      kind, count: the kind of device, and how many there are.
      memory, peak: of each, see `utils.hardware`; 0 if not known.
    """

    kind: str
    count: int
    memory: float
    peak: float


def get_target() -> Target:
    """Describes `parallel.devices()`."""
    kind = parallel.device_kind()
    chip = get_chip(kind) or Chip(0, 0)
    return Target(kind, parallel.device_count(), chip.memory, chip.peak)


def get_topology(name: str) -> list[jax.Device]:
    """Devices of a TPU that need not be there, for `parallel.on`.

    Args:
      name: generation and shape, as in "v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x4".

    Raises:
      ValueError: for an unknown topology, or if the compiler is missing or of another version.
    """
    check_compiler()
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    # As on a TPU v4 itself: one device for the two cores of a chip.
    options = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as e:  # of several types, with pages of text
        said = str(e).splitlines()[0][:200]
        raise ValueError(
            f"no topology {name!r} ({said}); give generation and shape, as in v4:2x2x1, v5e:2x4, "
            "v5p:2x2x1 or v6e:2x4"
        ) from e


def check_compiler() -> None:
    """Raises ValueError unless the TPU compiler that JAX asks for can be loaded."""
    asked = [r for r in importlib.metadata.requires("jax") or [] if r.startswith("libtpu")]
    wanted = asked[0].partition(";")[0].strip()
    remedy = (
        f"install it apart, because JAX would look for a TPU at every start: pip install --target "
        f"libtpu '{wanted}', and set {_LIBTPU}=libtpu/libtpu/libtpu.so"
    )
    path = os.environ.get(_LIBTPU)
    if path is None and importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"planning for a TPU needs its compiler, libtpu; {remedy}")
    if path is not None and not os.path.isfile(path):
        raise ValueError(f"{_LIBTPU}={path} is no file; {remedy}")
    where = [str(pathlib.Path(path).parent.parent)] if path else sys.path
    start = wanted.partition("==")[2].removesuffix("*")  # of "libtpu==0.0.42.*"
    for found in importlib.metadata.distributions(name="libtpu", path=where):
        if not found.version.startswith(start):
            raise ValueError(
                f"libtpu {found.version} does not fit JAX {jax.__version__}, which asks for "
                f"{wanted}; {remedy}"
            )


def compile_programs(experiment: Experiment, names: tuple[str, ...]) -> Iterator[Program]:
    """Compiles rows of PROGRAMS for `parallel.devices()`, one after the other."""
    for name in names:
        began = time.monotonic()
        try:
            with elapsing(f"compiling {name}"):
                compiled = PROGRAMS[name](experiment)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            used = _USED.search(str(e))
            said = f"{used[1]} of {used[2]}" if used else str(e).splitlines()[0][:100]
            yield Program(name, time.monotonic() - began, too_large=said)
            continue
        yield _describe(name, experiment, compiled, time.monotonic() - began)


def _describe(name: str, experiment: Experiment, compiled: Any, seconds: float) -> Program:
    memory = compiled.memory_analysis()
    flops = {
        "train": steps.step_flops(experiment, compiled),
        "eval": (compiled.cost_analysis() or {}).get("flops", 0.0),
    }
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        name,
        seconds,
        flops.get(name, 0.0),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + results,
        memory.generated_code_size_in_bytes,
        count_traffic(compiled.as_text()) if parallel.device_count() > 1 else 0,
    )


def count_traffic(program: str) -> int:
    """Bytes of the results of all collective operations in the text of a compiled program."""
    total = 0
    for shapes, operation, start in _COLLECTIVE.findall(program):
        arrays = _ARRAY.findall(shapes)
        if start and operation != "all-reduce":  # names its operands, results and flags
            arrays = [array for array in arrays if array[2]]
            arrays = arrays[len(arrays) // 2 :]
        total += sum(_bytes(*array) for array in arrays)
    return total


def _bytes(kind: str, bits: str, shape: str) -> int:
    size = int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
    return size * max(int(bits or 8) // 8, 1)


def _batch_shapes(config: ml_collections.ConfigDict, n_steps: int) -> dict:
    """Shapes of batches for the train or eval step, (n_steps, B, *S)."""
    size = n_steps, config.training.batch_size
    return {
        "image": jax.ShapeDtypeStruct((*size, *model_shape(config)), np.float32),
        "label": jax.ShapeDtypeStruct(size, np.int32),
        "index": jax.ShapeDtypeStruct(size, np.uint32),
    }


def _compile_step(compile_step: Callable, experiment: Experiment, n_steps: int) -> Any:
    strategy = steps.get_strategy(experiment)
    batches = _batch_shapes(experiment.config, n_steps)
    return compile_step(experiment, strategy, *strategy.shapes(experiment.state_shapes, batches))


def _compile_train(experiment: Experiment) -> Any:
    n = experiment.config.training.n_jitted_steps
    return _compile_step(steps.compile_train, experiment, n)


def _compile_eval(experiment: Experiment) -> Any:
    return _compile_step(steps.compile_eval, experiment, 1)


def _compile_sample(experiment: Experiment) -> Any:
    shapes = jax.eval_shape(lambda: jax.random.key(0)), experiment.state_shapes
    key, state = jax.tree.map(parallel.whole_on_each, shapes)
    return BatchSampler(experiment, observed=False).compile(key, state)


# what is planned -> the compiled program of an experiment
PROGRAMS = {"train": _compile_train, "eval": _compile_eval, "sample": _compile_sample}


def state_memory(experiment: Experiment) -> dict[str, int]:
    """Bytes on each device of "parameters" and of "optimizer and average"."""
    strategy, state = steps.get_strategy(experiment), experiment.state_shapes

    def size(tree: Any) -> int:
        return sum(math.prod(strategy.part(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return {
        "parameters": size(state.params),
        "optimizer and average": size((state.opt_state, state.params_ema)),
    }


def vary(config: ml_collections.ConfigDict, **changes: Any) -> Experiment:
    """The experiment of a config with other values: `vary(config, model__remat=True)`."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return build(config)


def get_variants(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """The switches that trade memory for time, each turned to what it is not, for `vary`."""
    other = {"float32": "bfloat16", "bfloat16": "float32", "pmap": "sharded", "sharded": "pmap"}
    return [
        {"model__remat": not config.model.remat},
        {"model__dtype": other[config.model.dtype]},
        {"parallel__strategy": other[config.parallel.strategy]},
    ]


def largest_batch(
    config: ml_collections.ConfigDict, target: Target, tell: Callable[[int, Program], None]
) -> int:
    """The largest batch of training that fits, by bisection; 0 if none does.

    Args:
      config: the experiment.
      target: the devices.
      tell: is called with each batch size that was tried, and its program.

    Raises:
      ValueError: if the memory of the devices is not known.
    """
    if not target.memory:
        raise ValueError(f"the memory of {target.kind} is not known; give a --topology")
    unit = parallel.device_count() * config.training.accumulate

    def fits(n: int) -> bool:
        experiment = vary(config, training__batch_size=n * unit)
        (program,) = compile_programs(experiment, ("train",))
        tell(n * unit, program)
        return not program.too_large and program.memory <= target.memory

    low, high = 0, max(config.training.batch_size // unit, 1)
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit


def training_hours(
    experiment: Experiment, flops: float, target: Target, utilization: float
) -> float:
    """Hours for all steps of a training; 0 if operations or the peak of the chip are not known."""
    speed = target.peak * utilization
    steps_left = experiment.config.training.n_iters
    return steps_left * flops / speed / 3600 if speed else 0.0


COLUMNS = (
    "arguments",
    "temporaries",
    "code",
    "in all",
    "of memory",
    "TFLOP",
    "traffic",
    "compiled",
)


def columns(program: Program, target: Target) -> list[str]:
    """What a table says of a program, under COLUMNS; sizes in GiB."""
    if program.too_large:
        return ["", "", "", "too large:", program.too_large, "", "", f"{program.seconds:.0f} s"]
    sizes = program.arguments, program.temporaries, program.code, program.memory
    return [
        *(f"{size / 2**30:.3f}" for size in sizes),
        f"{program.memory / target.memory:.0%}" if target.memory else "?",
        f"{program.flops / 1e12:.4g}" if program.flops else "",
        f"{program.traffic / 2**30:.3f}",
        f"{program.seconds:.0f} s",
    ]


def add_record(
    path: str, name: str, config: ml_collections.ConfigDict, record: dict[str, Any]
) -> None:
    """Adds a plan to a JSON file; one of the same settings and devices is replaced.

    Args:
      path: the file, which need not exist.
      name: the config's.
      config: the experiment.
      record: "target", "state" and "programs", of JSON types.
    """
    kept = read_json(path) if os.path.exists(path) else {}
    settings = {"config": name, "batch": config.training.batch_size, **_switches(config)}
    target = record["target"]
    key = ", ".join(str(x) for x in (target["kind"], target["count"], *settings.values()))
    versions = {package: importlib.metadata.version(package) for package in ("jax", "jaxlib")}
    write_json(path, kept | {key: record | {"settings": settings, "versions": versions}})


def _switches(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The settings that decide what a step takes, besides network and batch."""
    return {
        "strategy": config.parallel.strategy,
        "accumulate": config.training.accumulate,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
    }


def table(path: str) -> str:
    """The training steps in a file of `add_record`, as a Markdown table; sizes in GiB.

    Raises:
      ValueError: if there is no such file.
    """
    header = ("config", "devices", "batch", "", "state, batch", *COLUMNS[1:-1])
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    if not os.path.exists(path):
        raise ValueError(f"{path} does not exist; --save writes such a file")
    for record in read_json(path).values():
        settings, target = record["settings"], Target(**record["target"])
        parts = settings["accumulate"]
        said = [settings["strategy"], settings["dtype"]]
        said += ["remat"] * settings["remat"] + [f"{parts} parts"] * (parts > 1)
        cells = settings["config"], f"{target.count} x {target.kind}", str(settings["batch"])
        for program in record["programs"]:
            if program["name"] == "train":
                values = columns(Program(**program), target)[:-1]
                lines.append("| " + " | ".join([*cells, ", ".join(said), *values]) + " |")
    return "\n".join(lines)
