"""Runs the pickles in PyTorch files in a way that lets them build data and do nothing else.

A pickle is a program for a stack machine. `Machine` implements only the opcodes that data needs. A
function that the program calls must be in `_CONSTRUCTORS`: tensors, ordered dicts, NumPy scalars.
No name is ever imported or looked up as an attribute, so a file cannot reach any other code. An
opcode or name that is not in the tables is an error, and the message names it.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.numpy import bfloat16

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORAGES = {
    "torch DoubleStorage": np.dtype(np.float64),
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(bfloat16),
    "torch LongStorage": np.dtype(np.int64),
    "torch IntStorage": np.dtype(np.int32),
    "torch ShortStorage": np.dtype(np.int16),
    "torch CharStorage": np.dtype(np.int8),
    "torch ByteStorage": np.dtype(np.uint8),
    "torch BoolStorage": np.dtype(np.bool_),
}
_SCALARS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_MAX_DIMS = 64  # largest number of dimensions of a NumPy array
_REFUSED = (
    "which is neither tensor, ordered dict nor NumPy scalar; a file that holds more than data "
    "could run code and is not read"
)

StorageFn = Callable[[str, np.dtype, int], np.ndarray]  # (key, dtype, n) -> (n,)


class TorchFileError(ValueError):
    """A file is damaged, was not written by PyTorch, or holds more than data."""


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name, "module name", that is never imported; some opcodes compare it with the tables."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    """The memory of one or more tensors, 1-D."""

    array: np.ndarray


@dataclasses.dataclass
class _ScalarType:
    """The dtype of a NumPy scalar."""

    name: str
    order: str = "<"


class Machine:
    """A stack machine that runs pickles, one after the other."""

    def __init__(self, storage_fn: StorageFn | None = None) -> None:
        """Makes a machine.

        Args:
          storage_fn: returns the storage (memory of tensors) with a key, a dtype and a number of
            elements, after checking that the file has that many; None if there are no tensors.
        """
        self._storage_fn = storage_fn
        self._storages: dict[str, _Storage] = {}

    def run(self, file: Any) -> Any:
        """Runs the pickle that starts at the file's position, and stops right after it.

        Returns:
          Dicts (ordered ones too), lists, tuples, strings and numbers, read-only NumPy arrays for
          tensors, and NumPy scalars.

        Raises:
          TorchFileError: if the pickle does more than build data.
          ValueError, LookupError, OverflowError: if the pickle is damaged.
        """
        self._stack: list = []
        self._below: list[list] = []  # the stacks below the marks
        memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            name, stack = opcode.name, self._stack
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                stack.append(tuple(reversed([stack.pop() for _ in range(_TUPLES[name])])))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                what = f"{name} {argument}" if isinstance(argument, str) else name
                raise TorchFileError(f"the pickle has {what[:80]!r}, {_REFUSED}")
        return self._stack.pop()

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, _: None) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list) -> None:
        if not isinstance(self._stack[-1], list):
            raise TorchFileError("the pickle appends to what is no list")
        self._stack[-1].extend(items)

    def _set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, items: list) -> None:
        keys = items[::2]
        if not isinstance(self._stack[-1], dict) or not all(isinstance(k, str | int) for k in keys):
            raise TorchFileError("the pickle sets an item of what is no dict of names")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _global(self, name: str) -> None:
        if name not in _CONSTRUCTORS and name not in _STORAGES:
            raise TorchFileError(f"the pickle names {name.replace(' ', '.')[:80]!r}, {_REFUSED}")
        self._stack.append(_Global(name))

    def _stack_global(self, _: None) -> None:
        match self._stack.pop(), self._stack.pop():
            case str(name), str(module):
                self._global(f"{module} {name}")
            case _:
                raise TorchFileError("the pickle has a name that is no text")

    def _reduce(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or function.name not in _CONSTRUCTORS:
            raise TorchFileError(f"the pickle calls an object, {_REFUSED}")
        self._stack.append(_CONSTRUCTORS[function.name](arguments))

    def _build(self, _: None) -> None:
        match self._stack.pop(), self._stack[-1]:
            case dict(state), dict() if set(state) <= {"_metadata"}:
                pass  # versions of the modules in a state dict, which are not needed
            case (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0), _ScalarType() as dtype:
                dtype.order = order
            case _:
                raise TorchFileError(f"the pickle sets the state of an object, {_REFUSED}")

    def _persistent(self, _: None) -> None:
        match self._stack.pop():
            case ("storage", _Global(name), str(key), str(), int(n), *view) if (
                name in _STORAGES and key.isdecimal() and n >= 0 and view in ([], [None])
            ):
                self._stack.append(self._storage(key, _STORAGES[name], n))
            case _:
                raise TorchFileError("a storage is not described as usual")

    def _storage(self, key: str, dtype: np.dtype, n: int) -> _Storage:
        if self._storage_fn is None:
            raise TorchFileError("a tensor stands where the container has none")
        if key not in self._storages:
            self._storages[key] = _Storage(self._storage_fn(key, dtype, n))
        storage = self._storages[key]
        if (storage.array.dtype, storage.array.size) != (dtype, n):
            raise TorchFileError(f"storage {key} is declared in two ways")
        return storage


def _tensor(arguments: tuple) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`: returns a view of a storage."""
    match arguments:
        case (_Storage(storage), int(offset), tuple(shape), tuple(strides), bool(), dict(), *_):
            numbers = (offset, *shape, *strides)
        case _:
            raise TorchFileError("a tensor is not described as usual")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMS:
        raise TorchFileError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise TorchFileError("a tensor has an offset, a shape or strides that are no counts")
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size > storage.size or (size > 0 and last >= storage.size):
        raise TorchFileError(
            f"a tensor with shape {shape}, strides {strides} and offset {offset} does not fit its "
            f"storage of {storage.size} elements"
        )
    steps = [stride * storage.itemsize for stride in strides]
    start = storage[offset:] if size else storage[:0]
    return np.lib.stride_tricks.as_strided(start, shape, steps, writeable=False)


def _parameter(arguments: tuple) -> np.ndarray:
    match arguments:
        case (np.ndarray() as array, bool(), dict()):
            return array
    raise TorchFileError("a parameter is not described as usual")


def _ordered_dict(arguments: tuple) -> dict:
    if arguments != ():
        raise TorchFileError("an ordered dict is not described as usual")
    return {}


def _scalar_type(arguments: tuple) -> _ScalarType:
    match arguments:
        case (str(name), False | 0, True | 1):
            if name in _SCALARS:
                return _ScalarType(name)
            raise TorchFileError(f"the NumPy dtype {name[:80]!r} is not that of a number")
    raise TorchFileError("a NumPy dtype is not described as usual")


def _scalar(arguments: tuple) -> np.generic:
    match arguments:
        case (_ScalarType(name, order), bytes(raw)):
            dtype = np.dtype(name).newbyteorder(order)
            if len(raw) == dtype.itemsize:
                return np.frombuffer(raw, dtype)[0]
    raise TorchFileError("a NumPy scalar is not described as usual")


def _bytes(arguments: tuple) -> bytes:
    """`codecs.encode(text, "latin1")`, the form of bytes in pickle protocol 2."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
    raise TorchFileError("bytes are not described as usual")


_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "TUPLE": Machine._tuple,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
}
_CONSTRUCTORS: dict[str, Callable[[tuple], Any]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": _ordered_dict,
    "numpy dtype": _scalar_type,
    "numpy.core.multiarray scalar": _scalar,
    "numpy._core.multiarray scalar": _scalar,
    "_codecs encode": _bytes,
}
