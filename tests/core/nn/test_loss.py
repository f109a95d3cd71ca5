"""Losses, distances and Bilinear as modules against torch: signatures, state, printed form, output and gradients."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import mpigrad

Expression = Callable[[Any], Any]


def rows(m: Any) -> Any:
    return m.linspace(-1, 2, 12).reshape(4, 3).requires_grad_()


def other(m: Any) -> Any:
    return m.linspace(1, 0.1, 12).reshape(4, 3)


def classes(m: Any) -> Any:
    return m.tensor([0, 2, 1, 1])


def signs(m: Any, *shape: int) -> Any:
    return m.tensor([1.0, -1.0, 1.0, 1.0] * 3)[: 12 if len(shape) > 1 else 4].reshape(*shape)


LOSSES: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
    ("L1Loss", {}, lambda m: (rows(m), other(m))),
    ("MSELoss", {"reduction": "none"}, lambda m: (rows(m), other(m))),
    ("MSELoss", {"size_average": False}, lambda m: (rows(m), other(m))),
    ("SmoothL1Loss", {"beta": 0.5}, lambda m: (rows(m), other(m))),
    ("HuberLoss", {"delta": 0.5}, lambda m: (rows(m), other(m))),
    ("CrossEntropyLoss", {"weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1}, lambda m: (rows(m), classes(m))),
    ("CrossEntropyLoss", {}, lambda m: (rows(m), other(m))),
    ("NLLLoss", {"weight": [1.0, 2.0, 0.5], "ignore_index": 1}, lambda m: (rows(m), classes(m))),
    ("BCELoss", {"weight": [1.0, 2.0, 0.5]}, lambda m: (rows(m).sigmoid(), other(m))),
    ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2.0, 0.5]}, lambda m: (rows(m), other(m))),
    ("KLDivLoss", {"reduction": "batchmean"}, lambda m: (rows(m), other(m))),
    (
        "CTCLoss",
        {"zero_infinity": True},
        lambda m: (rows(m)[:, None].log_softmax(2), m.tensor([[1, 2]]), m.tensor([4]), m.tensor([2])),
    ),
    ("PoissonNLLLoss", {"full": True}, lambda m: (rows(m), other(m))),
    ("GaussianNLLLoss", {"full": True}, lambda m: (rows(m), other(m), other(m))),
    ("HingeEmbeddingLoss", {"margin": 0.5}, lambda m: (rows(m), signs(m, 4, 3))),
    ("MarginRankingLoss", {"margin": 0.5}, lambda m: (rows(m)[:, 0], other(m)[:, 1], signs(m, 4))),
    ("CosineEmbeddingLoss", {"margin": 0.1}, lambda m: (rows(m), other(m), signs(m, 4))),
    ("SoftMarginLoss", {}, lambda m: (rows(m), signs(m, 4, 3))),
    ("MultiLabelSoftMarginLoss", {}, lambda m: (rows(m), other(m))),
    ("MultiMarginLoss", {"p": 2, "weight": [1.0, 2.0, 0.5]}, lambda m: (rows(m), classes(m))),
    ("MultiLabelMarginLoss", {}, lambda m: (rows(m), m.tensor([[0, -1, 1], [2, 1, -1], [0, 1, 2], [1, -1, -1]]))),
    ("TripletMarginLoss", {"p": 1.0, "swap": True}, lambda m: (rows(m), other(m), rows(m) * 0.5)),
    ("TripletMarginWithDistanceLoss", {"margin": 2.0}, lambda m: (rows(m), other(m), rows(m) * 0.5)),
    ("CosineSimilarity", {"dim": 0}, lambda m: (rows(m), other(m))),
    ("PairwiseDistance", {"p": 1.0, "keepdim": True}, lambda m: (rows(m), other(m))),
]


@pytest.mark.parametrize(("name", "options", "inputs"), LOSSES)
@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_as_in_torch(name: str, options: dict[str, Any], inputs: Any, close: Callable[[Expression], None]) -> None:
    def run(m: Any) -> Any:
        made = {k: m.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
        module, given = getattr(m.nn, name)(**made), inputs(m)
        value = module(*given)
        (gradient,) = m.autograd.grad([value.sum()], [given[0]])
        return [module, dict(module.state_dict()), getattr(module, "reduction", None), value, gradient]

    close(run)


def test_signatures(torch: Any) -> None:
    """Names, order and defaults of the settings are torch's."""
    for name in sorted({name for name, *_ in LOSSES}):
        ours, theirs = (inspect.signature(getattr(m.nn, name)).parameters.values() for m in (mpigrad, torch))
        got = {p.name: p.default for p in ours}
        want = {p.name: p.default for p in theirs}
        assert got == want, name
        if name != "TripletMarginWithDistanceLoss":  # keywords only
            assert list(got) == list(want), name


def test_the_older_arguments_warn_once() -> None:
    with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
        module = mpigrad.nn.MSELoss(size_average=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert module(mpigrad.ones(3), mpigrad.zeros(3)).item() == 3.0


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear(bias: bool, close: Callable[[Expression], None]) -> None:
    def run(m: Any) -> Any:
        m.manual_seed(4)
        module = m.nn.Bilinear(3, 4, 2, bias=bias)
        return [module, dict(module.state_dict()), module(m.ones(5, 3), m.ones(5, 4))]

    close(run)


def test_bilinear_needs_an_input(same_class: Callable[[Expression], None]) -> None:
    same_class(lambda m: m.nn.Bilinear(0, 1, 1))
