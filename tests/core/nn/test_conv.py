"""Convolutions as modules, against torch."""

from typing import Any

import pytest

ATTRIBUTES = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "dilation", "groups"]
MODULES = [
    lambda nn: nn.Conv2d(4, 8, 3),
    lambda nn: nn.Conv2d(4, 8, (3, 2), stride=2, padding=1, dilation=2, groups=2, bias=False, padding_mode="reflect"),
    lambda nn: nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"),
    lambda nn: nn.Conv1d(4, 8, 3, padding="same"),
    lambda nn: nn.Conv1d(4, 8, 3, padding="valid", padding_mode="replicate"),
    lambda nn: nn.Conv3d(4, 2, 2, (2, 1, 1), padding=(0, 1, 1)),
    lambda nn: nn.ConvTranspose1d(4, 3, 3, dilation=2),
    lambda nn: nn.ConvTranspose2d(4, 8, 3, output_padding=1, stride=2, groups=2),
    lambda nn: nn.ConvTranspose3d(4, 2, 2, bias=False, padding=1),
]


@pytest.mark.parametrize("make", MODULES)
def test_as_in_torch(make: Any, same: Any) -> None:
    """Start values, keys, printed form, output and gradients."""

    def everything(m: Any) -> Any:
        m.manual_seed(0)
        module = make(m.nn).double()
        module.load_state_dict({k: m.round(v * 64) / 64 for k, v in module.state_dict().items()})  # sums are exact
        x = m.randint(-8, 8, (2, 4, *[5, 4, 6][: len(module.kernel_size)])).double().requires_grad_()
        y = module(x)
        y.sum().backward()
        return [
            repr(module), list(make(m.nn).state_dict().items()), y, x.grad, [p.grad for p in module.parameters()],
            {k: getattr(module, k) for k in ATTRIBUTES},
        ]  # fmt: skip

    same(everything)


@pytest.mark.parametrize(
    "expression",
    [
        lambda m: m.nn.Conv2d(4, 7, 3, groups=2),
        lambda m: m.nn.Conv2d(3, 8, 3, groups=2),
        lambda m: m.nn.Conv2d(4, 8, 3, groups=0),
        lambda m: m.nn.Conv2d(4, 8, 3, padding="same", stride=2),
        lambda m: m.nn.ConvTranspose2d(4, 8, 3, padding_mode="reflect"),
        lambda m: m.nn.ConvTranspose2d(4, 8, 3, 2)(m.zeros(1, 4, 3, 3), output_size=(8, 7)).shape,
        lambda m: m.nn.ConvTranspose2d(4, 8, 3, 2)(m.zeros(1, 4, 3, 3), output_size=(1, 8, 8, 7)).shape,
    ],
)
def test_same(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize(
    "expression",
    [
        lambda m: m.nn.Conv2d(4, 8, 3, padding="full"),
        lambda m: m.nn.Conv2d(4, 8, 3, padding_mode="mirror"),
        lambda m: m.nn.ConvTranspose2d(4, 8, 3, 2)(m.zeros(1, 4, 3, 3), output_size=(9, 7)),
        lambda m: m.nn.ConvTranspose2d(4, 8, 3, 2)(m.zeros(1, 4, 3, 3), output_size=(9, 7, 1)),
    ],
)
def test_error_class(expression: Any, same_class: Any) -> None:
    same_class(expression)
