"""The random stream against PyTorch's: stored figures of torch 2.13, and the live oracle over mixtures of calls."""

import copy
import hashlib
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpigrad.core import generator
from mpigrad.core.generator import Generator

Draw = Callable[[Generator], Any]

F64 = np.float64
EXACT: list[tuple[int, str, Draw, list[Any]]] = [
    (0, "rand", lambda g: g.rand(4), [0.4962566, 0.7682218, 0.08847743, 0.13203049]),
    (-1, "rand, negative seed", lambda g: g.rand(3), [0.9937994, 0.57130635, 0.57000804]),
    (2**32 + 7, "rand, 2-d", lambda g: g.rand((2, 2)), [0.53492254, 0.19880319, 0.6592117, 0.6568903]),
    (2**63, "rand float64", lambda g: g.rand(2, F64), [0.9700530018065531, 0.707819864399788]),
    (5, "rand float16", lambda g: g.rand(4, np.float16), [0.83, 0.1261, 0.907, 0.82]),
    (1, "uniform", lambda g: g.uniform(4, 0.1, 0.7), [0.55457896, 0.26758653, 0.34184155, 0.54081064]),
    (12345, "uniform, weights", lambda g: g.uniform(3, -0.05, 0.05), [0.04817182, 0.037960656, 0.049214344]),
    (1, "uniform, rounded up to high", lambda g: g.uniform(33, 1e6, 1e6 + 1)[30:], [1e6 + 0.625, 1e6, 1e6 + 0.8125]),
    (0, "uniform, a tie", lambda g: g.uniform(7, 1e-30, 3)[4:], [0.92226845, 1.9022361, 1.4702803]),
    (0, "uniform float64, a tie", lambda g: g.uniform(3, 1e-290, 3, F64)[1:], [2.123459593199364, 1.3781488293823527]),
    (3, "uniform float64", lambda g: g.uniform(2, -0.1, 0.3, F64), [-0.08635672173979181, 0.014696090688522779]),
    (24, "uniform float16", lambda g: g.uniform(3, -0.1, 0.7, np.float16), [0.5117, 0.2001, -0.03992]),
    (199, "uniform float16, low", lambda g: g.uniform(28, -2.0533801e-05, 742.2, np.float16)[26:], [353.5, -2.05e-05]),
    (0, "randint", lambda g: g.randint(0, 10, 8), [4, 9, 3, 0, 3, 9, 7, 3]),
    (0, "randint below 2^28", lambda g: g.randint(-5, 2**28 - 6, 3), [209652399, 130329139, 118924923]),
    (0, "randint from 2^28", lambda g: g.randint(0, 2**28, 3), [130329135, 136432832, 195187451]),
    (9, "randint from 2^32", lambda g: g.randint(-(2**40), 2**50, 2), [905440800887132, 777898030465525]),
    (9, "randint, long", lambda g: g.randint(-(2**63), 2**63 - 1, 2), [-9032002594820763300, 34580184003183093]),
    (9, "randint, all", lambda g: g.randint(-(2**63), 2**63, 2), [191369442034012508, -9188791852851592715]),
    (4, "randint uint8", lambda g: g.randint(0, 256, 4, np.uint8), [122, 174, 183, 197]),
    (4, "randint float32", lambda g: g.randint(-3, 3, 4, np.float32), [1, -3, -2, 2]),
    (42, "randperm", lambda g: g.randperm(12), [6, 8, 1, 7, 0, 2, 10, 11, 4, 3, 5, 9]),
    (42, "randperm, more", lambda g: g.randperm(60_000)[[0, 1, 29_999, 59_999]], [37542, 43087, 42045, 22100]),
    (7, "bernoulli", lambda g: g.bernoulli(10, 0.3), [1, 1, 0, 0, 0, 0, 1, 0, 0, 0]),
    (7, "bernoulli bool", lambda g: g.bernoulli(6, 0.5, np.bool_), [True, True, False, False, False, False]),
    (0, "dropout's mask", lambda g: g.bernoulli(12, 1 - 0.3), [0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1]),
]

NORMAL: list[tuple[str, Draw, list[float]]] = [
    ("5", lambda g: g.normal(5), [1.5409961, -0.2934289, -2.1787894, 0.56843126, -1.0845224]),
    ("15", lambda g: g.normal(15)[12:], [-0.8566746, 1.1006042, -1.0711874]),
    ("16", lambda g: g.normal(16)[::5], [-1.1258398, 0.69200915, 0.3499832, -0.24727815]),
    ("17", lambda g: g.normal(17)[::4], [-1.1258398, 0.59883946, 0.4680964, 1.3893661, 0.9318266]),
    ("2-d", lambda g: g.normal((5, 7))[:, 3], [-0.4338788, 0.3499832, -1.6959312, -0.21586326, -1.5866888]),
    ("mean and std", lambda g: g.normal((5, 7), 1, 0.02)[:3, 3], [0.9913224, 1.0069996, 0.9660814]),
    ("3 float64", lambda g: g.normal(3, dtype=F64), [1.5409961082440433, -0.2934289057609464, -2.1787893820745574]),
    ("33 float64", lambda g: g.normal(33, dtype=F64)[24:40:8], [0.7970100169250297, -0.013720701456433322]),
    ("3 float16", lambda g: g.normal(3, dtype=np.float16), [1.541, -0.2935, -2.18]),
    ("33 float16", lambda g: g.normal(33, dtype=np.float16)[::8], [-1.126, 0.3223, -1.353, 0.4412, -1.587]),
]
RTOL = {np.dtype(F64): 1e-13, np.dtype(np.float32): 1e-6, np.dtype(np.float16): 2e-3}


@pytest.mark.parametrize(("seed", "draw", "expected"), [pytest.param(s, d, e, id=n) for s, n, d, e in EXACT])
def test_stored_figures(seed: int, draw: Draw, expected: list[Any]) -> None:
    got = draw(Generator().manual_seed(seed)).reshape(-1)
    np.testing.assert_array_equal(got, np.array(expected, got.dtype), strict=True)


@pytest.mark.parametrize(("draw", "expected"), [pytest.param(d, e, id=n) for n, d, e in NORMAL])
def test_stored_normals(draw: Draw, expected: list[float]) -> None:
    got = draw(Generator().manual_seed(0))
    np.testing.assert_allclose(got, expected, rtol=RTOL[got.dtype])


def test_stored_mixture() -> None:
    g = Generator().manual_seed(2026)
    np.testing.assert_allclose(g.normal(3), [0.36554577946662903, 1.906460165977478, 0.2168649137020111], rtol=1e-6)
    np.testing.assert_array_equal(g.rand(2), np.float32([0.6982057094573975, 0.046473681926727295]))
    np.testing.assert_allclose(g.normal(20)[-2:], [1.3032017946243286, 0.8962838053703308], rtol=1e-6)
    assert g.randperm(6).tolist() == [3, 4, 0, 1, 5, 2]
    assert g.randint(0, 2**40, ()).tolist() == 13525569828
    assert g.normal(1)[0] == pytest.approx(0.2963348627090454, rel=1e-6)  # the spare of the first call
    assert g.random_int64() == 3567213610772031397


def test_seeds() -> None:
    g = Generator()
    assert g.initial_seed() == 67280421310721
    np.testing.assert_array_equal(g.rand(2), np.float32([0.267295241355896, 0.8725283145904541]))
    assert g.manual_seed(-2).initial_seed() == 2**64 - 2
    first = g.normal(3)
    np.testing.assert_array_equal(g.manual_seed(-2).normal(3), first)  # reseeding drops the spare normal
    assert g.seed() == g.initial_seed() != g.seed()
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="Overflow when unpacking long long"):
            g.manual_seed(seed)
    with pytest.raises(RuntimeError, match="expected a long, but got float"):
        g.manual_seed(1.5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="'cuda:0'"):
        Generator("cuda:0")
    assert str(g.device) == str(generator.default_generator.device) == "cpu"


def test_default_generator() -> None:
    before = generator.default_generator.state_bytes()
    try:
        assert generator.manual_seed(3) is generator.default_generator
        assert generator.initial_seed() == 3
        assert generator.seed() == generator.initial_seed()
    finally:
        generator.default_generator.set_state(before)


ERRORS: list[tuple[Draw, type[Exception], str]] = [
    (lambda g: g.randint(3, 3, 1), RuntimeError, "random_ expects 'from' to be less than 'to', but got from=3 >= to=3"),
    (lambda g: g.randint(0, 300, 1, np.uint8), RuntimeError, "to - 1 is out of bounds for uint8"),
    (lambda g: g.randint(-1, 3, 1, np.uint8), RuntimeError, "from is out of bounds for uint8"),
    (lambda g: g.randint(0, 3, 1, np.bool_), RuntimeError, "to - 1 is out of bounds for bool"),
    (lambda g: g.randint(0, 5000, 1, np.float16), RuntimeError, "to - 1 is out of bounds for float16"),
    (lambda g: g.randint(0.5, 3, 1), TypeError, "float"),  # type: ignore[arg-type]
    (lambda g: g.uniform(1, 2, 1), RuntimeError, r"return a \[from, to\) range, but found from=2 > to=1"),
    (lambda g: g.uniform(1, -3e38, 3e38), RuntimeError, "exceed the limit"),
    (lambda g: g.uniform(1, 0, 1e39), RuntimeError, "to is out of bounds for float32"),
    (lambda g: g.uniform(1, np.nan, 1), RuntimeError, "from is out of bounds for float32"),
    (lambda g: g.uniform(1, dtype=np.int64), NotImplementedError, "uniform gives .* but `dtype` is int64"),
    (lambda g: g.normal(1, dtype=np.int64), NotImplementedError, "normal gives .* but `dtype` is int64"),
    (lambda g: g.normal(1, 0, -1), RuntimeError, r"normal expects std >= 0.0, but found std -1"),
    (lambda g: g.bernoulli(1, 1.5), RuntimeError, r"bernoulli_ expects p to be in \[0, 1\], but got p=1.5"),
    (lambda g: g.bernoulli(1, np.nan), RuntimeError, "but got p=nan"),
    (lambda g: g.randperm(-1), RuntimeError, r"negative dimension -1: \[-1\]"),
    (lambda g: g.rand((2, -3)), RuntimeError, r"negative dimension -3: \[2, -3\]"),
    (lambda g: g.randperm(2**28), NotImplementedError, "n is 268435456"),
]


@pytest.mark.parametrize(("draw", "error", "text"), ERRORS)
def test_errors_cost_no_draws(draw: Draw, error: type[Exception], text: str) -> None:
    g = Generator()
    before = g.state_bytes()
    with pytest.raises(error, match=text):
        draw(g)
    np.testing.assert_array_equal(g.state_bytes(), before)


@pytest.mark.parametrize("spent", [0, 1, 100, 623, 624, 625])
@pytest.mark.parametrize("normals", [0, 1, 2])
@pytest.mark.parametrize(
    "copied",
    [
        lambda g: g.clone_state(),
        lambda g: Generator().set_state(g.state_bytes()),
        copy.copy,
        copy.deepcopy,
        lambda g: pickle.loads(pickle.dumps(g)),
    ],
    ids=["clone_state", "set_state", "copy", "deepcopy", "pickle"],
)
def test_a_copy_goes_on_alike(copied: Callable[[Generator], Generator], normals: int, spent: int) -> None:
    g = Generator().manual_seed(2**63 + 5)
    g.random_raw(spent)
    g.normal(normals)
    other = copied(g)
    expected = [g.normal(3), g.random_raw(1000), g.normal(2)]
    for a, b in zip(expected, [other.normal(3), other.random_raw(1000), other.normal(2)], strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.initial_seed() == g.initial_seed()


def test_state_has_pytorchs_layout() -> None:
    g = Generator().manual_seed(11)
    assert hashlib.sha256(g.state_bytes()).hexdigest() == (
        "50eb2aa376beb51d99514aa288bc6e16bfc2e64fb7609e1a042eac0a0a80471d"
    )
    g.normal(1)
    state = g.state_bytes()
    assert state[:24].tolist() == [11, 0, 0, 0, 0, 0, 0, 0, 109, 2, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
    assert state[24:34].tolist() == [177, 10, 53, 185, 0, 0, 0, 0, 139, 89]
    assert state[5024:5032].view(np.float64)[0] == pytest.approx(1.945929152496269, rel=1e-14)
    assert state[5032:].tolist() == [0] * 8 + [1] + [0] * 15


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(12, 0, id="never seeded"),
        pytest.param(8, 0, id="left and next disagree"),
        pytest.param(slice(8, 12), 255, id="negative left"),
        pytest.param(24 + 4, 1, id="a word beyond 32 bits"),
        pytest.param(slice(24, 5016), 0, id="words all zero"),
    ],
)
def test_bad_states(place: Any, value: int) -> None:
    g = Generator()
    g.rand(3)
    before = g.state_bytes()
    bad = before.copy()
    bad[place] = value
    with pytest.raises(RuntimeError, match="Invalid mt19937 state"):
        g.set_state(bad)
    np.testing.assert_array_equal(g.state_bytes(), before)


@pytest.mark.parametrize("bad", [np.zeros(5, np.uint8), np.zeros(5056), np.zeros((5056, 1), np.uint8), None, "state"])
def test_what_is_no_state(bad: Any) -> None:
    with pytest.raises(RuntimeError, match=r"uint8 array of shape \(5056,\)"):
        Generator().set_state(bad)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 1000])
def test_randperm_is_the_swap_loop(n: int) -> None:
    g = Generator().manual_seed(n)
    draws = g.clone_state().random_raw(n).tolist()
    items = list(range(n))
    for i in range(n - 1):
        j = i + draws[i] % (n - i)
        items[i], items[j] = items[j], items[i]
    assert g.randperm(n).tolist() == items


def test_bernoulli_is_below_p() -> None:
    u = float(Generator().rand(1, F64)[0])
    assert [float(Generator().bernoulli(1, p)[0]) for p in (0, u, np.nextafter(u, 1), 1)] == [0, 0, 1, 1]


# From here on the live oracle.


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="the oracle extra (torch) is not installed")


seeds = st.integers(-(2**63), 2**64 - 1) | st.integers(0, 9)
sizes = st.sampled_from([0, 1, 15, 16, 17, 312, 624]) | st.integers(0, 50) | st.integers(0, 2000)
floats = st.sampled_from(["float16", "float32", "float64"])
bounds = st.sampled_from([0.0, 1.0, -0.1, 0.1, 1e4]) | st.floats(-3e4, 3e4)
spans = st.sampled_from([0.0, 1.0, 0.2, 1e-3]) | st.floats(0, 3e4)
ints = st.integers(-(2**62), 2**62) | st.integers(-9, 9)
int_spans = st.sampled_from([1, 2**28 - 1, 2**28, 2**32]) | st.integers(1, 100) | st.integers(1, 2**62)

CALLS = st.one_of(
    st.tuples(st.just("rand"), sizes, floats),
    st.tuples(st.just("uniform"), sizes, bounds, spans, floats),
    st.tuples(st.just("normal"), sizes, st.sampled_from([0, 1, -0.3]), st.sampled_from([1, 0, 0.02, 3]), floats),
    st.tuples(st.just("randint"), sizes, ints, int_spans),
    st.tuples(st.just("randperm"), sizes),
    st.tuples(st.just("bernoulli"), sizes, st.floats(0, 1), st.sampled_from(["bool", "int64", "float32"])),
    st.tuples(st.just("dropout"), sizes, st.floats(0, 0.999)),
    st.tuples(st.just("random_int64")),
)


def call_both(ours: Generator, torch: Any, theirs: Any, call: tuple[Any, ...]) -> tuple[Any, Any]:
    """The results of one call of CALLS, of torch's with its generator `theirs`."""

    def empty(n: int, dtype: str) -> Any:
        return torch.empty(n, dtype=getattr(torch, dtype))

    match call:
        case "rand", n, dtype:
            return ours.rand(n, dtype), torch.rand(n, generator=theirs, dtype=getattr(torch, dtype))
        case "uniform", n, low, span, dtype:
            high = low + span
            return ours.uniform(n, low, high, dtype), empty(n, dtype).uniform_(low, high, generator=theirs)
        case "normal", n, mean, std, dtype:
            return ours.normal(n, mean, std, dtype), empty(n, dtype).normal_(mean, std, generator=theirs)
        case "randint", n, low, span:
            return ours.randint(low, low + span, n), torch.randint(low, low + span, (n,), generator=theirs)
        case "randperm", n:
            return ours.randperm(n), torch.randperm(n, generator=theirs)
        case "bernoulli", n, p, dtype:
            return ours.bernoulli(n, p, dtype), empty(n, dtype).bernoulli_(p, generator=theirs)
        case "dropout", n, p:  # draws from the default generator only
            torch.default_generator.set_state(theirs.get_state())
            kept = torch.nn.functional.dropout(torch.ones(n), p) != 0
            if p > 0:
                theirs.set_state(torch.default_generator.get_state())
                return ours.bernoulli(n, 1 - p, np.bool_), kept
            return np.ones(n, np.bool_), kept  # torch draws nothing
    return np.array(ours.random_int64()), empty((), "int64").random_(generator=theirs)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(seed=seeds, calls=st.lists(CALLS, min_size=1, max_size=8))
def test_calls_in_a_row(torch: Any, seed: int, calls: list[tuple[Any, ...]]) -> None:
    ours, theirs = Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    assert ours.initial_seed() == theirs.initial_seed()
    for call in calls:
        got, expected = call_both(ours, torch, theirs, call)
        expected = expected.numpy()
        if call[0] == "normal":
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            size = abs(call[2]) + call[3]  # the zeros of sine and cosine, and sums near 0, have few relative digits
            np.testing.assert_allclose(got, expected, rtol=RTOL[got.dtype], atol=RTOL[got.dtype] * size)
        else:
            np.testing.assert_array_equal(got, expected, strict=True)
        ours_state, state = ours.state_bytes(), theirs.get_state().numpy().copy()
        if state[8] == 1 and state[9] == 0:  # the block is exhausted: torch ignores its place in it
            state[16:24] = 0
        np.testing.assert_array_equal(ours_state[:5016], state[:5016])
        np.testing.assert_array_equal(ours_state[5040:5044], state[5040:5044])
        np.testing.assert_allclose(ours_state[5024:5032].view(float), state[5024:5032].view(float), rtol=1e-13)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, spent=sizes, normals=st.integers(0, 3))
def test_states_travel_both_ways(torch: Any, seed: int, spent: int, normals: int) -> None:
    theirs = torch.Generator().manual_seed(seed)
    torch.rand(spent, generator=theirs), torch.randn(normals, generator=theirs)
    ours = Generator().set_state(theirs.get_state().numpy())
    np.testing.assert_allclose(ours.normal(3), torch.randn(3, generator=theirs), rtol=1e-6)
    theirs.manual_seed(0).set_state(torch.from_numpy(ours.state_bytes()))
    np.testing.assert_allclose(ours.normal(3), torch.randn(3, generator=theirs), rtol=1e-6)
    np.testing.assert_array_equal(ours.rand(700), torch.rand(700, generator=theirs))
    assert ours.initial_seed() == theirs.initial_seed()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "bool", "float16", "float32", "float64"])
def test_randint_over_all_of_a_dtype(torch: Any, dtype: str) -> None:
    d = np.dtype(dtype)
    if d.kind == "f":
        high = 2 ** (np.finfo(d).nmant + 1) + 1
        low = 1 - high
    else:
        low, high = (0, 2) if d.kind == "b" else (int(np.iinfo(d).min), int(np.iinfo(d).max) + 1)
    expected = torch.randint(low, high, (999,), dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(Generator().manual_seed(1).randint(low, high, 999, d), expected, strict=True)


def test_keys_are_streams_of_their_own() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**32, 0, 0), (0, 0), (2**64 - 1, 5, 7)]
    draws = [Generator().manual_key(*key).random_raw(4).tolist() for key in keys]
    assert len({tuple(d) for d in draws}) == len(keys)
    # an independent implementation of init_by_array: CPython's own, which takes the key as one large number
    reference = random.Random(3 + ((2**63 + 1) << 64))
    assert Generator().manual_key(3, 2**63 + 1).random_raw(4).tolist() == [reference.getrandbits(32) for _ in range(4)]
    g = Generator().manual_key(4, 5, 6)
    g.normal(3)  # leaves a spare one
    assert g.manual_key(4, 5, 6).random_raw(2).tolist() == Generator().manual_key(4, 5, 6).random_raw(2).tolist()
    assert g.initial_seed() == 4


def test_drawing_from_is_for_one_thread_and_one_block() -> None:
    default = generator.default_generator
    default.manual_seed(3)
    before = default.state_bytes()
    seen: list[float] = []
    with generator.drawing_from(Generator().manual_seed(7)):
        first = default.rand(2)
        with generator.drawing_from(Generator().manual_seed(8)):
            default.normal(3)
        second = default.rand(1)
        assert default.initial_seed() == 7
        other = threading.Thread(target=lambda: seen.append(default.initial_seed()))
        other.start()
        other.join()
    np.testing.assert_array_equal([*first, *second], Generator().manual_seed(7).rand(3))
    assert seen == [3]
    np.testing.assert_array_equal(default.state_bytes(), before)
