"""torch.save's files: read as torch.load reads them, and nothing but data read from them, whatever they say."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpigrad

Maker = Callable[[Any], Any]


def saved(torch: Any, value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def plain(value: Any) -> Any:
    """A value without its library: a tensor as its dtype, shape, strides, elements and whether it learns."""
    if hasattr(value, "stride"):
        elements = value.detach().double().tolist()
        name = type(value).__name__
        return (
            name,
            str(value.dtype).rpartition(".")[2],
            tuple(value.shape),
            value.stride(),
            elements,
            value.requires_grad,
        )
    if isinstance(value, dict):
        return type(value), [(k, plain(v)) for k, v in value.items()], plain(getattr(value, "_metadata", None))
    if isinstance(value, (list, set)) or type(value) is tuple:
        return type(value), [plain(v) for v in value]
    return str(value).replace("torch.", "mpigrad.")


VALUES: list[Maker] = [
    lambda t: t.nn.Sequential(t.nn.Linear(2, 3), t.nn.BatchNorm1d(3)).state_dict(),
    lambda t: t.nn.Linear(2, 3).weight,
    lambda t: t.arange(6.0).reshape(2, 3).T,
    lambda t: t.arange(24.0).reshape(2, 3, 4)[1, 1:, ::2],
    lambda t: t.ones(2, 1).expand(2, 5),
    lambda t: [t.tensor(2.5), t.zeros(0), t.zeros(3, 0, 2), t.ones(2, requires_grad=True)],
    lambda t: {
        str(d)[6:]: t.ones(3).to(d) for d in (t.float64, t.float32, t.float16, t.int64, t.int32, t.int16, t.int8)
    },
    lambda t: {str(d)[6:]: t.ones(3).to(d) for d in (t.uint8, t.bool)},
    lambda t: {"a": [1, -1, 2**40, 2**100, 0.5, float("inf"), True, None, "text \u20ac", b"\x00\xff", b""], "t": (1,)},
    lambda t: {1: (1, (2, 3), (1, 2, 3, 4, ()), []), (2, "a"): {}, None: set()},
    lambda t: [OrderedDict(a=1), Counter("hello"), {1, "a"}, 1 + 2j, t.Size([2, 3]), t.device("cpu"), bytearray(b"ab")],
    lambda t: [t.device("cuda:1"), t.float16, t.Size([])],
    lambda t: [x := [1], x],
    lambda t: 5,
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_read_as_by_torch(value: Maker, protocol: int, torch: Any) -> None:
    torch.manual_seed(0)
    content = saved(torch, value(torch), pickle_protocol=protocol)
    assert plain(mpigrad.load(io.BytesIO(content))) == plain(torch.load(io.BytesIO(content), weights_only=False))


def test_bfloat16(torch: Any) -> None:
    if not hasattr(mpigrad, "bfloat16"):
        pytest.skip("the library has no such dtype")
    content = saved(torch, torch.tensor([1.5, -2], dtype=torch.bfloat16))
    found = mpigrad.load(io.BytesIO(content))
    assert found.dtype is mpigrad.bfloat16 and found.tolist() == [1.5, -2]


def test_shared_storages_stay_shared(torch: Any, tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    torch.save({"base": base, "row": base[1], "same": base, "other": torch.ones(6)}, tmp_path / "m.pth")
    found = mpigrad.load(tmp_path / "m.pth")
    found["row"][0] = 9
    assert found["base"].tolist() == [[0, 1, 2], [9, 4, 5]] and found["same"] is found["base"]


def test_models_and_optimizers(torch: Any, tmp_path: Path) -> None:
    theirs, ours = torch.nn.Linear(3, 2), mpigrad.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.25, momentum=0.9)
    theirs(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": theirs.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, str(tmp_path / "c.pt"))
    found = mpigrad.load(str(tmp_path / "c.pt"), map_location="cpu", weights_only=True, mmap=True)
    ours.load_state_dict(found["model"])
    assert ours.weight.tolist() == theirs.weight.tolist()
    again = mpigrad.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    again.load_state_dict(found["optimizer"])
    for m, model, step in ((torch, theirs, optimizer), (mpigrad, ours, again)):
        model.zero_grad()
        model(m.ones(1, 3)).sum().backward()
        step.step()
    np.testing.assert_allclose(ours.weight.tolist(), theirs.weight.tolist(), rtol=1e-6)


def archive(program: bytes, storages: dict[str, bytes] | None = None, **records: bytes) -> bytes:
    """An archive of this program. Records besides storages: by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", program)
        for name, content in {**{f"data/{k}": v for k, v in (storages or {}).items()}, **records}.items():
            out.writestr(f"a/{name}", content)
    return file.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(pickle.UnpicklingError) as caught:
        mpigrad.load(io.BytesIO(content))
    assert str(caught.value).startswith("the file: ")
    return str(caught.value)


def test_the_other_byte_order(torch: Any) -> None:
    content = saved(torch, torch.tensor([1.0, 2.0]))
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        program = found.read("archive/data.pkl")
    big = archive(program, {"0": struct.pack(">2f", 1, 2)}, byteorder=b"big")
    assert mpigrad.load(io.BytesIO(big)).tolist() == [1, 2]
    assert "expected a byte order" in refusal(archive(program, {"0": b"x" * 8}, byteorder=b"middle"))


def test_devices(torch: Any) -> None:
    with zipfile.ZipFile(io.BytesIO(saved(torch, torch.ones(2)))) as found:
        program = found.read("archive/data.pkl").replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    content = archive(program, {"0": struct.pack("<2f", 1, 1)})
    for where in ("cpu", mpigrad.device("cpu"), {"cuda:0": "cpu"}, lambda tensor, location: tensor):
        assert mpigrad.load(io.BytesIO(content), map_location=where).device == mpigrad.device("cpu")
    seen = []
    mpigrad.load(io.BytesIO(content), lambda tensor, location: (seen.append(location), tensor)[1])
    assert seen == ["cuda:0"]
    if mpigrad.core.backend.cuda_device_count() == 0:
        for where in (None, {"cpu": "cuda:0"}, lambda tensor, location: None):
            with pytest.raises(
                RuntimeError, match=r"the file: tensors that were saved on 'cuda:0' .* map_location='cpu'"
            ):
                mpigrad.load(io.BytesIO(content), map_location=where)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def system(directory: Path) -> Any:
    return Calls(os.system, f"touch {directory}/executed")


NAMES = [os.system, eval, getattr, __import__, pickle.loads, Path, np.dtype, mpigrad.tensor, mpigrad.Tensor, print]


@pytest.mark.parametrize("function", NAMES, ids=str)
@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_other_names_are_refused(function: Any, protocol: int, tmp_path: Path) -> None:
    for value in (function, Calls(function, f"touch {tmp_path}/executed"), {"a": [Calls(function)]}):
        text = refusal(archive(pickle.dumps(value, protocol)))
        assert f".{function.__name__}, which is refused" in text or "has an instruction" in text
    assert not list(tmp_path.iterdir())


def test_modules_are_refused_by_name(torch: Any) -> None:
    text = refusal(saved(torch, torch.nn.Linear(1, 1)))
    assert "asks for torch.nn.modules.linear.Linear, which is refused" in text and "save a state_dict()" in text
    with pytest.raises(pickle.UnpicklingError, match="which is refused"):
        mpigrad.load(io.BytesIO(saved(torch, torch.nn.Linear(1, 1))), weights_only=False)
    assert "asks for numpy" in refusal(saved(torch, np.ones(2)))
    assert "ComplexFloatStorage" in refusal(saved(torch, torch.ones(1, dtype=torch.complex64)))


T = b"ctorch._utils\n_rebuild_tensor_v2\n"  # opcodes by hand: GLOBAL, then its arguments
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%btQ"


def tensor(
    offset: bytes = b"K\x00", size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85", count: bytes = b"K\x02"
) -> bytes:
    return b"\x80\x02" + T + b"(" + STORAGE % count + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR."


BIG, NEGATIVE = b"\x8a\x08" + b"\xff" * 7 + b"\x3f", b"J\xff\xff\xff\xff"
PROGRAMS: list[tuple[bytes, str]] = [
    (tensor(size=b"K\x03\x85"), "reaches element 2 of a storage with 2"),
    (tensor(offset=b"K\x01"), "reaches element 2 of a storage with 2"),
    (tensor(offset=BIG), "reaches element"),
    (tensor(stride=b"K\x02\x85"), "reaches element 2"),
    (tensor(stride=BIG + b"\x85"), "reaches element"),
    (tensor(size=BIG + b"\x85"), "reaches element"),
    (tensor(size=BIG + BIG + b"\x86", stride=b"K\x00K\x00\x86"), "a tensor of shape"),
    (tensor(size=BIG + BIG + b"K\x00\x87", stride=b"K\x00K\x00K\x00\x87"), "damaged"),
    (tensor(size=NEGATIVE + b"\x85"), "expected a size, found -1"),
    (tensor(stride=NEGATIVE + b"\x85"), "expected a size, found -1"),
    (tensor(offset=NEGATIVE), "expected a size, found -1"),
    (tensor(size=b"\x88\x85"), "expected a size, found True"),
    (tensor(size=b"X\x01\x00\x00\x00a\x85"), "expected a size, found str"),
    (tensor(size=b")"), "0 sizes and 1 strides"),
    (tensor(size=b"K\x02"), "makes sizes of int"),
    (tensor(count=b"K\x03"), "should have 3 elements, but has 8 bytes"),
    (tensor(count=BIG), "should have"),
    (tensor(count=NEGATIVE), "expected a size"),
    (tensor().replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"), "expected a record 'a/data/1', found none"),
    (tensor().replace(b"X\x01\x00\x00\x000", b"X\x05\x00\x00\x00../.."), "which is no storage"),
    (tensor().replace(b"X\x07\x00\x00\x00storage", b"X\x06\x00\x00\x00module"), "which is no storage"),
    (b"\x80\x02}X\x01\x00\x00\x00aK\x01sb.", "takes more from its stack"),
    (b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.", "sets the state of dict"),
    (b"\x80\x02]}b.", "sets the state of list"),
    (b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb.", "sets attributes of an OrderedDict"),
    (b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00_metadataK\x01sb.", "sets attributes of an OrderedDict"),
    (b"\x80\x02ccollections\nOrderedDict\n}b.", "sets the state of Function"),
    (b"\x80\x02K\x01)R.", "calls int"),
    (b"\x80\x02ccollections\nOrderedDict\nK\x01R.", "calls with int"),
    (b"\x80\x02}]K\x01s.", "a dict with a key of type list"),
    (b"\x80\x02}K\x01\x85\x85K\x01s.", "a dict with a key of type tuple"),
    (b"\x80\x02K\x01", "pickle exhausted before seeing STOP"),
    (b"", "pickle exhausted before seeing STOP"),
    (b"\x80\x02.", "takes more from its stack"),
    (b"\x80\x02K\x01K\x02.", "leaves something on its stack"),
    (b"\x80\x02t.", "a mark that it never set"),
    (b"\x80\x02h\x05.", "damaged"),
    (b"\x80\x02(a.", "takes more from its stack"),
    (b"\x80\x02(0.", "an instruction POP"),
    (b"\x80\x02K\x012.", "an instruction DUP"),
    (b"\x80\x02(cos\nsystem\no.", "asks for os.system"),
    (b"\x80\x02(X\x01\x00\x00\x00aios\nsystem\n.", "an instruction INST"),
    (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "an instruction NEWOBJ"),
    (b"\x80\x02\x82\x01.", "an instruction EXT1"),
    (b"\x80\x04X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "asks for os.system"),
    (b"\x80\x04K\x01K\x02\x93.", "looks up int"),
    (b"\x80\x04X\x05\x00\x00\x00torchX\x0b\x00\x00\x00load.system\x93.", "asks for torch.load.system"),
    (b"\x80\x02ctorch\nfloat31\n.", "asks for torch.float31"),
    (b"\x80\x02c__builtin__\neval\n.", "asks for builtins.eval"),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.", "text in the encoding 'zip'"),
    (b"\x80\x02\x8a\xff.", "damaged"),
    (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
    (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged"),
    (b"\x80\x02X\xff\xff\xff\xffa.", "damaged"),
    (b"\x80\x02ctorch\nSize\nK\x01\x85R.", "makes sizes of int"),
    (b"\x80\x02cbuiltins\nset\n]]a\x85R.", "a dict with a key of type list"),
    (b"\x80\x02c__builtin__\ncomplex\nX\x01\x00\x00\x00a\x85R.", "makes a number of str"),
    (b"\x80\x02\xff.", "damaged"),
    (b"\x80\x02" + STORAGE % b"K\x02" + b".", "returns a Storage"),
    (b"\x80\x02}K\x01]" + STORAGE % b"K\x02" + b"\x85as.", "returns a Storage"),
    (b"\x80\x02ctorch\nFloatStorage\n.", "returns a StorageType"),
    (b"\x80\x02ccollections\nOrderedDict\n\x85.", "returns a Function"),
]


@pytest.mark.parametrize(("program", "text"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_by_hand(program: bytes, text: str) -> None:
    content = archive(program, {"0": struct.pack("<2f", 1, 2)})
    assert text in refusal(content)


def test_a_program_by_hand_that_is_right() -> None:
    assert mpigrad.load(io.BytesIO(archive(tensor(), {"0": struct.pack("<2f", 1, 2)}))).tolist() == [1, 2]


def test_laughs_are_cheap() -> None:
    """Sixty containers that each hold the one before twice: shared when read, refused where they are compared."""
    program = b"\x80\x04)\x94" + b"".join(b"h%c" % i + b"h%c" % i + b"\x86\x94" for i in range(60))
    assert "leaves something" in refusal(archive(program + b"."))
    keyed = program + b"h\x3c}h\x3cK\x01s."  # the last of them as a key
    assert "key of type tuple" in refusal(archive(keyed))


def zipped(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    file = io.BytesIO(archive(tensor(), {"0": struct.pack("<2f", 1, 2)}))
    with zipfile.ZipFile(file, "a") as out:
        change(out)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives() -> None:
    assert "two records 'a/data/0'" in refusal(zipped(lambda z: z.writestr("a/data/0", b"x" * 8)))
    assert "found 2: no file of torch.save" in refusal(zipped(lambda z: z.writestr("b/data.pkl", b"x")))
    assert "TorchScript" in refusal(zipped(lambda z: z.writestr("a/constants.pkl", b"x")))
    assert mpigrad.load(io.BytesIO(zipped(lambda z: z.writestr("../../../etc/x", b"x")))).tolist() == [1, 2]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", bytes(10**7))
    assert "found it compressed or encrypted" in refusal(bomb.getvalue())
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as out:
        out.writestr("a/other", b"")
    assert "found 0: no file of torch.save" in refusal(empty.getvalue())


def test_records_that_overlap_are_not_read_again_and_again() -> None:
    """A small file whose records hold the ones after them: read one by one they would be large."""
    one = (STORAGE % b"M\x00\x10").replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x00%d")
    program = b"\x80\x02](" + b"".join(one % i for i in range(9)) + b"e."
    records, content = [], bytes(4 * 4096)
    for name in [*(b"a/data/%d" % i for i in reversed(range(9))), b"a/data.pkl"]:
        own = program if name == b"a/data.pkl" else content
        fields = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, zlib.crc32(own), len(own), len(own), len(name), 0)
        content = b"PK\3\4" + fields + name + (program + content if name == b"a/data.pkl" else content)
        records.append((name, fields, len(content)))
    directory = b"".join(
        b"PK\1\2\x14\0" + fields + bytes(10) + struct.pack("<L", len(content) - back) + name
        for name, fields, back in records
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(directory), len(content), 0)
    text = refusal(content + directory + end)
    assert "more than there can be" in text or "verlap" in text  # newer versions of Python notice it too


def test_old_and_other_files(torch: Any, tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError, match=r"old.pt: expected a zip archive, found a pickle \(the format of"):
        mpigrad.load(tmp_path / "old.pt")
    (tmp_path / "evil").write_bytes(pickle.dumps(system(tmp_path)))
    with pytest.raises(pickle.UnpicklingError, match="which is never executed"):
        mpigrad.load(tmp_path / "evil")
    (tmp_path / "text").write_bytes(b"hello")
    with pytest.raises(ValueError, match="text: expected a whole safetensors file"):
        mpigrad.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        mpigrad.load(tmp_path / "nothing")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil", "old.pt", "text"]


GOOD = archive(tensor(), {"0": struct.pack("<2f", 1, 2)}, byteorder=b"little")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_are_errors(data: st.DataObject) -> None:
    """Bytes that are changed, cut out or put in: the same value, or an error that names the file."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        content = content or bytearray(b"x")
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "put", "end"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 8))]
        elif kind == "put":
            content[at:at] = data.draw(st.binary(max_size=8))
        else:
            del content[max(at, 1) :]
    try:
        found = mpigrad.load(io.BytesIO(bytes(content)))
    except (pickle.UnpicklingError, ValueError, RuntimeError) as error:
        assert str(error).startswith("the file: ")
    else:
        assert isinstance(found, (mpigrad.Tensor, dict)) and len(found) <= 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_programs_are_errors(data: st.DataObject) -> None:
    """The same for the program alone, in an archive whose checksums are right."""
    program = bytearray(tensor())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(program) - 1))
        program[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        program = program or bytearray(b".")
    try:
        mpigrad.load(io.BytesIO(archive(bytes(program), {"0": struct.pack("<2f", 1, 2)})))
    except (pickle.UnpicklingError, RuntimeError) as error:
        assert str(error).startswith("the file: ")
