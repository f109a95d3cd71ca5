"""Printed tensors against PyTorch: stored texts of torch 2.13, and the live oracle over random tensors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpigrad.core.printing import set_printoptions, tensor_text

NAN, INF = np.nan, np.inf
FLOATS = [np.float16, np.float32, np.float64]
DTYPES = [*FLOATS, np.int8, np.int16, np.int32, np.int64, np.uint8, np.bool_]


@pytest.fixture(autouse=True)
def default_options() -> Iterator[None]:
    yield
    set_printoptions(profile="default")


def f32(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


CASES: dict[str, tuple[np.ndarray, list[str], str]] = {
    "0-d": (np.float32(1.5).reshape(()), [], "tensor(1.5000)"),
    "0-d whole": (np.float32(2).reshape(()), ["requires_grad=True"], "tensor(2., requires_grad=True)"),
    "0-d int": (np.int64(-3).reshape(()), [], "tensor(-3)"),
    "0-d bool": (np.bool_(True).reshape(()), [], "tensor(True)"),
    "0-d nan": (np.float32(NAN).reshape(()), [], "tensor(nan)"),
    "0-d large": (np.float32(1e10).reshape(()), [], "tensor(1.0000e+10)"),
    "empty": (f32(), [], "tensor([])"),
    "empty int": (f32(), ["dtype=mpigrad.int64"], "tensor([], dtype=mpigrad.int64)"),
    "empty 2-d": (
        np.zeros((0, 3)),
        ["dtype=mpigrad.float64", "requires_grad=True"],
        "tensor([], size=(0, 3), dtype=mpigrad.float64, requires_grad=True)",
    ),
    "empty on a device": (
        np.zeros((0, 3)),
        ["device='cuda:0'", "dtype=mpigrad.float64"],
        "tensor([], device='cuda:0', size=(0, 3), dtype=mpigrad.float64)",
    ),
    "bool": (np.array([True, False]), [], "tensor([ True, False])"),
    "int wraps": (
        np.arange(30) * 7,
        [],
        """\
tensor([  0,   7,  14,  21,  28,  35,  42,  49,  56,  63,  70,  77,  84,  91,
         98, 105, 112, 119, 126, 133, 140, 147, 154, 161, 168, 175, 182, 189,
        196, 203])""",
    ),
    "shared width": (
        f32([1, -2.5], [0, 100]),
        [],
        """\
tensor([[  1.0000,  -2.5000],
        [  0.0000, 100.0000]])""",
    ),
    "whole": (f32(3, 2000, -70), [], "tensor([   3., 2000.,  -70.])"),
    "whole and nan": (f32(NAN, -100), [], "tensor([  nan, -100.])"),
    "zeros do not align with inf": (f32([0, NAN], [INF, 0]), [], "tensor([[0., nan],\n        [inf, 0.]])"),
    "zeros wrap late": (
        np.zeros(30, np.float32),
        ["requires_grad=True"],
        """\
tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.,
        0., 0., 0., 0., 0., 0.], requires_grad=True)""",
    ),
    "small": (f32(2e-4, 9e-4), [], "tensor([0.0002, 0.0009])"),
    "below 1e-4": (f32(5e-5, 2e-4), [], "tensor([5.0000e-05, 2.0000e-04])"),
    "ratio of 1000": (f32(0.5, 500), [], "tensor([  0.5000, 500.0000])"),
    "ratio above 1000": (f32(0.5, 500.5), [], "tensor([5.0000e-01, 5.0050e+02])"),
    "blocks": (
        np.zeros((2, 2, 1, 2), np.float16),
        ["dtype=mpigrad.float16"],
        """\
tensor([[[[0., 0.]],

         [[0., 0.]]],


        [[[0., 0.]],

         [[0., 0.]]]], dtype=mpigrad.float16)""",
    ),
    "summary": (
        np.arange(1001, dtype=np.float32) / 2,
        [],
        "tensor([  0.0000,   0.5000,   1.0000,  ..., 499.0000, 499.5000, 500.0000])",
    ),
    "summary keeps short axes": (
        np.ones((2, 7, 100), np.uint8),
        ["dtype=mpigrad.uint8"],
        """\
tensor([[[1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         ...,
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1]],

        [[1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         ...,
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1],
         [1, 1, 1,  ..., 1, 1, 1]]], dtype=mpigrad.uint8)""",
    ),
    "suffix wraps": (
        np.full(8, 0.5, np.float32),
        ["requires_grad=True"],
        """\
tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000],
       requires_grad=True)""",
    ),
    "second suffix wraps": (
        np.ones((2, 7)),
        ["dtype=mpigrad.float64", "grad_fn=<MulBackward0>"],
        """\
tensor([[1., 1., 1., 1., 1., 1., 1.],
        [1., 1., 1., 1., 1., 1., 1.]], dtype=mpigrad.float64,
       grad_fn=<MulBackward0>)""",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    data, suffixes, text = CASES[name]
    assert tensor_text(data, suffixes=suffixes) == text


def test_prefix_sets_the_indent() -> None:
    assert tensor_text(f32([1], [2]), prefix="t(") == "t([[1.],\n   [2.]])"


THIRDS = np.arange(12, dtype=np.float32).reshape(3, 4) / 3

OPTIONS: list[tuple[dict[str, Any], np.ndarray, str]] = [
    ({"precision": 2}, THIRDS[0], "tensor([0.00, 0.33, 0.67, 1.00])"),
    ({"precision": 0}, THIRDS[1], "tensor([1, 2, 2, 2])"),
    ({"sci_mode": True}, THIRDS[0, 2:], "tensor([6.6667e-01, 1.0000e+00])"),
    ({"sci_mode": True}, f32(0, 0), "tensor([0., 0.])"),
    ({"sci_mode": False}, f32(1e9, 5), "tensor([1000000000.,          5.])"),
    ({"threshold": 3, "edgeitems": 1}, THIRDS[0], "tensor([0.,  ..., 1.])"),
    ({"threshold": 3, "edgeitems": 0}, THIRDS[0], "tensor([...], size=(4,))"),
    ({"edgeitems": 0}, THIRDS[0, 3:], "tensor([1.], size=(1,))"),
    ({"edgeitems": 0}, f32(), "tensor([])"),
    ({"linewidth": 24}, THIRDS[0], "tensor([0.0000, 0.3333,\n        0.6667, 1.0000])"),
    ({"profile": "short", "threshold": 9}, THIRDS[:, 0], "tensor([0.00, 1.33, 2.67])"),
    ({"profile": "short"}, np.arange(1001), "tensor([   0,    1,  ...,  999, 1000])"),
]


@pytest.mark.parametrize(("options", "data", "text"), OPTIONS)
def test_options(options: dict[str, Any], data: np.ndarray, text: str) -> None:
    set_printoptions(**options)
    assert tensor_text(data) == text


@pytest.mark.parametrize(("linewidth", "breaks"), [(45, 2), (46, 1), (61, 1), (62, 1), (81, 1), (82, 0)])
def test_where_suffixes_break(linewidth: int, breaks: int) -> None:
    """After a break a line has room for two characters more: 46 wide takes both suffixes, but 61 not the first."""
    set_printoptions(linewidth=linewidth)
    lines = tensor_text(np.ones(8), suffixes=["dtype=torch.float64", "requires_grad=True"]).splitlines()
    assert len(lines) == breaks + 1
    assert lines[0].endswith("dtype=torch.float64,") == (linewidth in (62, 81))


def test_full_profile_writes_everything() -> None:
    set_printoptions(profile="full")
    assert "..." not in tensor_text(np.arange(1001))


def test_sci_mode_is_forgotten_the_others_are_kept() -> None:
    set_printoptions(precision=1, sci_mode=True)
    set_printoptions(edgeitems=2)
    assert tensor_text(f32(0.5)) == "tensor([0.5])"


def test_unknown_profile_changes_nothing() -> None:
    with pytest.raises(ValueError, match=r"`profile` \(='long'\)"):
        set_printoptions(profile="long", precision=1)
    assert tensor_text(f32(0.5)) == "tensor([0.5000])"


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Random shape and dtype; floats of any spread, whole or not, with zeros, infinities and nans among them."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(
        st.one_of(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9), st.just((40, 30)), st.just((60,)))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.kind != "f":
        bound = 10 ** draw(st.integers(0, 18))
        return np.asarray(rng.integers(-bound, bound, shape, endpoint=True)).astype(dtype)
    low, high = sorted(draw(st.tuples(*[st.integers(-9, 12)] * 2)))
    data = rng.standard_normal(shape) * 10 ** rng.uniform(low, high, shape)
    if draw(st.booleans()):
        data = np.round(data)
    odd = draw(st.lists(st.sampled_from([0.0, -0.0, 1e-4, 1e-3, 1.0, 1e3, 1e8, NAN, INF, -INF])))
    if odd:
        data = np.where(rng.random(shape) < draw(st.floats(0, 1)), rng.choice(odd, shape), data)
    with np.errstate(over="ignore"):
        return np.asarray(data).astype(dtype)


PRINT_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "profile": st.sampled_from(["default", "short", "full"]),
        "precision": st.integers(0, 8),
        "threshold": st.integers(0, 200),
        "edgeitems": st.integers(0, 5),
        "linewidth": st.integers(1, 130),
        "sci_mode": st.booleans(),
    },
)


@settings(max_examples=100, deadline=None)
@given(data=arrays(), options=PRINT_OPTIONS, history=st.sampled_from(["none", "leaf", "computed"]))
def test_same_as_torch(data: np.ndarray, options: dict[str, Any], history: str) -> None:
    torch = pytest.importorskip("torch", reason="the oracle extra (torch) is not installed")
    tensor = torch.tensor(data)
    suffixes = []
    unmarked = [torch.float32] if data.size == 0 else [torch.float32, torch.int64, torch.bool]
    if tensor.dtype not in unmarked:
        suffixes.append(f"dtype={tensor.dtype}")
    if data.dtype.kind == "f" and history == "leaf":
        tensor.requires_grad_()
        suffixes.append("requires_grad=True")
    elif data.dtype.kind == "f" and history == "computed":
        tensor = tensor.requires_grad_().clone()
        suffixes.append("grad_fn=<CloneBackward0>")
    try:
        for set_options in (torch.set_printoptions, set_printoptions):
            set_options(profile="default")
            set_options(**options)
        assert tensor_text(data, suffixes=suffixes) == repr(tensor)
    finally:
        torch.set_printoptions(profile="default")
