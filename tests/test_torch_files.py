"""Files of PyTorch: what torch wrote comes back, and whatever is more than data is refused.

`torch_zip.pth` and `torch_sequence.pth` were written by PyTorch 2.13 from the same object, whose
arrays are in `torch_values.npz` as float32. The other files are put together here, byte by byte.
"""

import os
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from golden import FOLDER
from scorax.weights import torch_files

CHECKPOINTS = FOLDER / "checkpoints"
TORCH_FILES = ["torch_zip.pth", "torch_sequence.pth"]
DTYPES = {
    **{"a": np.float32, "d": np.float64, "h": np.float16, "bf": jnp.bfloat16, "b": np.bool_},
    **{"l": np.int64, "i": np.int32, "u": np.uint8},
}


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<i", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def items(*parts):
    return b"(" + b"".join(parts) + b"t"


def numbers(*values):
    return items(*map(number, values))


def call(module, attribute, *arguments):
    return name(module, attribute) + items(*arguments) + b"R"


def storage(n, kind="FloatStorage", key="0", last=()):
    what = name("torch", kind)
    return items(text("storage"), what, text(key), text("cpu"), number(n), *last) + b"Q"


def tensor(memory, shape, strides=(1,), offset=0):
    where = number(offset), numbers(*shape), numbers(*strides)
    return call("torch._utils", "_rebuild_tensor_v2", memory, *where, b"\x89", ORDERED)


def dtype(text_or_bytes, order=None):
    made = call("numpy", "dtype", text(text_or_bytes), b"\x89", b"\x88")
    state = items(number(3), text(order or "<"), b"NNN", number(-1), number(-1), number(0))
    return made + (state + b"b" if order else b"")


def latin(raw):
    return call("_codecs", "encode", text(raw.decode("latin1")), text("latin1"))


def scalar(kind, raw):
    return call("numpy.core.multiarray", "scalar", kind, latin(raw))


ORDERED = name("collections", "OrderedDict") + b")R"
FOUR = np.array([1.5, -2, 3, 4], "<f4")
DATA = struct.pack("<q", 4) + FOUR.tobytes()
TOUCH = text("touch PWNED")


def write_zip(path, program, members=None, root="x", compression=zipfile.ZIP_STORED):
    """A zip container around a program, by default with the storage 0: four float32 numbers."""
    members = {"data/0": FOUR.tobytes()} if members is None else members
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + program + b".")
        for member, content in members.items():
            archive.writestr(f"{root}/{member}", content)
    return path


def write_sequence(path, program, keys=("0",), data=DATA, **system):
    """The older container around a program."""
    system = {"protocol_version": 1001, "little_endian": True} | system
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, system)]
    tail = pickle.dumps(list(keys), 2)
    path.write_bytes(b"".join(head) + b"\x80\x02" + program + b"." + tail + data)
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_sequence], ids=["zip", "sequence"])


@pytest.mark.parametrize("file", TORCH_FILES)
def test_what_torch_wrote_comes_back(file):
    found = torch_files.load(CHECKPOINTS / file)
    with np.load(CHECKPOINTS / "torch_values.npz") as values:
        for key in values.files:
            assert found[key].shape == values[key].shape
            np.testing.assert_array_equal(found[key].astype(np.float32), values[key])
        assert {type(x) for x in found.values()} >= {np.ndarray, np.float64, dict, int, tuple}
    for key, kind in DTYPES.items():
        assert found[key].dtype == kind
    assert (found["n"], found["n4"], found["ni"]) == (2.5, np.float32(0.1), 7)
    assert (found["neg"], found["big"], found["none"]) == (-5, 2**70, None)
    assert found["tup"] == (1, 2.5, "x")
    assert list(found["sd"]) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("file", TORCH_FILES)
def test_a_file_cut_anywhere_is_damaged(file, tmp_path):
    data, path = (CHECKPOINTS / file).read_bytes(), tmp_path / "cut.pth"
    for length in [*range(0, len(data) - 1, 61), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(torch_files.TorchFileError, match="cut.pth"):
            torch_files.load(path)


def test_a_changed_weight_in_an_archive_is_noticed(tmp_path):
    data = bytearray((CHECKPOINTS / "torch_zip.pth").read_bytes())
    data[data.index(np.arange(24, dtype="<f4").tobytes()) + 40] ^= 1
    (tmp_path / "changed.pth").write_bytes(data)
    with pytest.raises(torch_files.TorchFileError, match="changed.pth is damaged"):
        torch_files.load(tmp_path / "changed.pth")


VALUES = [
    (tensor(storage(4), (2, 2), (1, 2)), np.array([[1.5, 3], [-2, 4]])),
    (tensor(storage(4), (2,), (2,), 1), np.array([-2.0, 4])),
    (tensor(storage(4), (), ()), np.array(1.5)),
    (tensor(storage(4), (0, 3), (3, 1), 4), np.zeros((0, 3))),
    (
        call("torch._utils", "_rebuild_parameter", tensor(storage(4), (4,)), b"\x88", ORDERED),
        FOUR,
    ),
    (scalar(dtype("f8", "<"), struct.pack("<d", 0.1)), 0.1),
    (scalar(dtype("f8", ">"), struct.pack(">d", 0.1)), 0.1),
    (scalar(dtype("u1", "|"), b"\xc8"), 200),
    (ORDERED + text("_metadata") + number(1) + b"s", {"_metadata": 1}),
    (ORDERED + b"}" + text("_metadata") + ORDERED + b"sb", {}),
]


@pytest.mark.parametrize("program, value", VALUES, ids=range(len(VALUES)))
def test_data(program, value, tmp_path):
    found = torch_files.load(write_zip(tmp_path / "x.pth", program))
    np.testing.assert_array_equal(found, value)
    assert np.shape(found) == np.shape(value)
    assert not (isinstance(found, np.ndarray) and found.flags.writeable)


@pytest.mark.parametrize("kind, dtype", [("Half", ">f2"), ("Float", ">f4"), ("Long", ">i8")])
def test_big_endian(kind, dtype, tmp_path):
    values = np.array([1, -2, 3], dtype)
    program = tensor(storage(3, f"{kind}Storage"), (3,))
    members = {"byteorder": b"big", "data/0": values.tobytes()}
    data = struct.pack(">q", 3) + values.tobytes()
    for path in (
        write_zip(tmp_path / "zip.pth", program, members),
        write_sequence(tmp_path / "seq.pth", program, data=data, little_endian=False),
    ):
        np.testing.assert_array_equal(torch_files.load(path), values)


def stack_global(module, attribute):
    return text(module) + text(attribute) + b"\x93"


REFUSED = {  # what a pickle does -> (program, what the message has to say)
    "global": (call("os", "system", TOUCH), "'os.system'"),
    "global alone": (name("posix", "system"), "'posix.system'"),
    "eval": (call("builtins", "eval", TOUCH), "'builtins.eval'"),
    "getattr": (call("builtins", "getattr", ORDERED, text("__class__")), "'builtins.getattr'"),
    "stack global": (stack_global("os", "system") + items(TOUCH) + b"R", "'os.system'"),
    "dotted": (
        stack_global("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "'torch._utils._rebuild_tensor_v2.__globals__'",
    ),
    "name that is no text": (text("os") + b"}\x93", "a name that is no text"),
    "inst": (b"(" + TOUCH + b"iposix\nsystem\n", "'INST posix system'"),
    "obj": (b"(" + name("os", "system") + TOUCH + b"o", "'os.system'"),
    "obj of data": (b"(" + name("collections", "OrderedDict") + b"o", "'OBJ'"),
    "newobj": (name("collections", "OrderedDict") + b")\x81", "'NEWOBJ'"),
    "newobj_ex": (name("collections", "OrderedDict") + b")}\x92", "'NEWOBJ_EX'"),
    "extension": (b"\x82\x01", "'EXT1'"),
    "text persistent id": (b"Pstorage\n", "'PERSID storage'"),
    "storage called": (name("torch", "FloatStorage") + b")R", "calls an object"),
    "text called": (text("os.system") + items(TOUCH) + b"R", "calls an object"),
    "dict called": (ORDERED + b")R", "calls an object"),
    "state of a dict": (ORDERED + b"}" + text("__class__") + number(1) + b"sb", "sets the state"),
    "slots of a dict": (ORDERED + items(b"N", b"}") + b"b", "sets the state"),
    "state of a function": (name("collections", "OrderedDict") + b"}b", "sets the state"),
    "state of a tensor": (tensor(storage(4), (4,)) + b"}b", "sets the state"),
    "state of a dtype": (dtype("f8") + items(number(3), text("<"), b"}NN") + b"b", "the state"),
    "ordered dict of": (call("collections", "OrderedDict", b"]"), "an ordered dict is not"),
    "append to a dict": (b"}" + number(1) + b"a", "what is no list"),
    "item of a list": (b"]" + text("a") + number(1) + b"s", "what is no dict"),
    "key that is a tuple": (b"}" + numbers(1) + number(1) + b"s", "what is no dict of names"),
    "object dtype": (dtype("O8"), "dtype 'O8' is not that of a number"),
    "structured dtype": (dtype("f8,f8"), "dtype 'f8,f8' is not"),
    "dtype of a list": (call("numpy", "dtype", b"]", b"\x89", b"\x88"), "a NumPy dtype is not"),
    "dtype with align": (call("numpy", "dtype", text("f8"), b"\x88", b"\x88"), "dtype is not"),
    "long scalar": (scalar(dtype("f8"), bytes(9)), "a NumPy scalar is not"),
    "object scalar": (call("numpy.core.multiarray", "scalar", dtype("f8"), b"]"), "scalar is not"),
    "codec": (call("_codecs", "encode", text("a"), text("zip")), "bytes are not"),
    "storage of what": (items(text("storage"), text("x")) + b"Q", "storage is not described"),
    "storage of a function": (storage(4, "os"), "'torch.os'"),
    "path as key": (storage(4, key="../0"), "storage is not described"),
    "negative storage": (storage(-1), "storage is not described"),
    "view of a storage": (storage(4, last=[numbers(1, 2)]), "storage is not described"),
    "declared twice": (storage(4) + storage(2), "declared"),
    "declared as another": (storage(4) + storage(4, "IntStorage"), "storage 0 is declared"),
    "huge storage": (storage(1 << 60), "storage 0 is declared"),
    "shape too large": (tensor(storage(4), (5,)), "does not fit its storage of 4"),
    "zero strides": (tensor(storage(4), (1 << 40,), (0,)), "does not fit its storage of 4"),
    "strides too large": (tensor(storage(4), (2, 2), (3, 1)), "does not fit its storage of 4"),
    "offset too large": (tensor(storage(4), (2,), (1,), 3), "does not fit its storage of 4"),
    "negative stride": (tensor(storage(4), (2,), (-1,), 3), "that are no counts"),
    "negative offset": (tensor(storage(4), (2,), (1,), -1), "that are no counts"),
    "shape of texts": (
        call(
            *("torch._utils", "_rebuild_tensor_v2", storage(4), number(0), items(text("4"))),
            *(numbers(1), b"\x89", ORDERED),
        ),
        "that are no counts",
    ),
    "stride missing": (tensor(storage(4), (2, 2), (1,)), "2 dimensions and 1 strides"),
    "many dimensions": (tensor(storage(4), (1,) * 65, (1,) * 65), "65 dimensions"),
    "tensor of a tensor": (tensor(tensor(storage(4), (4,)), (4,)), "a tensor is not described"),
    "parameter of a storage": (
        call("torch._utils", "_rebuild_parameter", storage(4), b"\x88", ORDERED),
        "a parameter is not",
    ),
    "empty stack": (b"\x85", "is damaged or incomplete"),
    "no such memo": (b"h\x07", "is damaged or incomplete"),
    "no such opcode": (b"\xff", "is damaged or incomplete"),
    "odd items": (b"}(" + text("a") + b"u", "is damaged or incomplete"),
}


@WRITERS
@pytest.mark.parametrize("what", REFUSED)
def test_more_than_data_is_refused(write, what, tmp_path, monkeypatch):
    program, message = REFUSED[what]
    path = write(tmp_path / "bad.pth", program)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(torch_files.TorchFileError) as error:
        torch_files.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["bad.pth"]


def test_the_programs_would_run_if_they_could(tmp_path, monkeypatch):
    """The refused programs are real: an ordinary unpickler does what they ask for."""
    monkeypatch.chdir(tmp_path)
    for what in ("global", "stack global", "inst"):
        pickle.loads(b"\x80\x02" + REFUSED[what][0] + b".")
        (tmp_path / "PWNED").unlink()


@pytest.mark.parametrize("file", ["malicious.pth", "malicious_legacy.pth"])
def test_malicious_file_is_refused(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(torch_files.TorchFileError, match=f"{file}: the pickle names 'io.open'"):
        torch_files.load(CHECKPOINTS / file)
    assert os.listdir(tmp_path) == []


ARCHIVES = {  # arguments of write_zip -> what the message has to say
    "short storage": (dict(members={"data/0": b"\0" * 8}), "4 x float32 and has 8 bytes"),
    "no storage": (dict(members={}), "storage 0 is declared as 4 x float32 and is missing"),
    "compressed": (dict(compression=zipfile.ZIP_DEFLATED), "'x/data.pkl' is compressed"),
    "climbing": (dict(members={"../0": b""}), "a member of the name 'x/../0'"),
    "absolute": (dict(root=""), "a member of the name '/data.pkl'"),
    "backslash": (dict(members={"a\\..\\b": b""}), "a member of the name"),
    "byte order": (dict(members={"byteorder": b"middle"}), "'middle', neither little nor big"),
    "no program": (dict(root="x/y"), "not one folder with a data.pkl"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_strange_archive_is_refused(what, tmp_path):
    arguments, message = ARCHIVES[what]
    path = write_zip(tmp_path / "bad.pth", tensor(storage(4), (4,)), **arguments)
    with pytest.raises(torch_files.TorchFileError) as error:
        torch_files.load(path)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_is_there_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.pth", tensor(storage(4), (4,)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", bytes(16))
    with pytest.raises(torch_files.TorchFileError, match="'x/data/0' is there twice"):
        torch_files.load(path)


SEQUENCES = {  # arguments of write_sequence -> what the message has to say
    "other storages": (dict(keys=("1",)), "not those that follow"),
    "storages left over": (dict(keys=("0", "1")), "not those that follow"),
    "other size": (dict(data=struct.pack("<q", 3) + bytes(16)), "4 elements and has 3"),
    "short": (dict(data=struct.pack("<q", 4) + bytes(15)), "ends after 15 of 16 bytes"),
}


@pytest.mark.parametrize("what", SEQUENCES)
def test_strange_sequence_is_refused(what, tmp_path):
    arguments, message = SEQUENCES[what]
    path = write_sequence(tmp_path / "bad.pth", tensor(storage(4), (4,)), **arguments)
    with pytest.raises(torch_files.TorchFileError) as error:
        torch_files.load(path)
    assert message in str(error.value)


NOT_TORCH = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "torch.save did not write this file"),
    "pickle": (pickle.dumps({"a": 1}, 2), "torch.save did not write this file"),
    "other version": (
        b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1000, {})),
        "the version of its container is not 1001",
    ),
}


@pytest.mark.parametrize("what", NOT_TORCH)
def test_other_files_are_refused(what, tmp_path):
    content, message = NOT_TORCH[what]
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(torch_files.TorchFileError, match=message):
        torch_files.load(tmp_path / "x.pth")


def test_missing_file_and_other_archive(tmp_path):
    with pytest.raises(torch_files.TorchFileError, match="cannot read .*nope.pth: No such file"):
        torch_files.load(tmp_path / "nope.pth")
    np.savez(tmp_path / "x.npz", a=1)
    with pytest.raises(torch_files.TorchFileError, match="no data.pkl, so torch.save did not"):
        torch_files.load(tmp_path / "x.npz")
