"""Other resolutions as modules, against torch."""

from typing import Any

import pytest

MODULES = [
    lambda nn: nn.Upsample(scale_factor=2),
    lambda nn: nn.Upsample(scale_factor=(2, 1)),
    lambda nn: nn.Upsample((3, 5), mode="bilinear", align_corners=True),
    lambda nn: nn.Upsample(scale_factor=1.5, mode="bilinear", recompute_scale_factor=True),
    lambda nn: nn.UpsamplingNearest2d(scale_factor=2),
    lambda nn: nn.UpsamplingBilinear2d(7),
    lambda nn: nn.PixelShuffle(2),
    lambda nn: nn.PixelUnshuffle(2),
    lambda nn: nn.ChannelShuffle(2),
]


@pytest.mark.parametrize("make", MODULES)
def test_as_in_torch(make: Any, same: Any) -> None:
    same(lambda m: (repr(make(m.nn)), m.round(make(m.nn)(m.arange(64.0).reshape(1, 4, 4, 4).double()) * 2**20)))
