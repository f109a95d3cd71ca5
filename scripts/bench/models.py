"""The training steps that the benchmarks measure, written once for mpigrad and PyTorch: `m` is either library."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A model, what it is called with, and how it learns."""

    model: Any
    inputs: Any
    labels: Any
    optimizer: Callable[[Any], Any]  # from the parameters


def mlp(m: Any, sizes: tuple[int, ...], batch: int) -> Task:
    """Linear layers with ReLU between them; SGD with momentum."""
    layers: list[Any] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [m.nn.Linear(fan_in, fan_out), m.nn.ReLU()]
    model = m.nn.Sequential(*layers[:-1])
    images, labels = m.rand(batch, sizes[0]), m.randint(0, sizes[-1], (batch,))
    return Task(model, images, labels, lambda parameters: m.optim.SGD(parameters, lr=0.01, momentum=0.9))


def cnn(m: Any, batch: int) -> Task:
    """Two convolutions, max-pooling and two linear layers on images of 28 x 28; SGD with momentum."""
    nn = m.nn
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    images, labels = m.rand(batch, 1, 28, 28), m.randint(0, 10, (batch,))
    return Task(model, images, labels, lambda parameters: m.optim.SGD(parameters, lr=0.01, momentum=0.9))


def gpt(m: Any, batch: int, *, layers: int = 4, heads: int = 4, width: int = 128, context: int = 64) -> Task:
    """A decoder-only transformer over 65 characters, pre-norm, GELU; AdamW."""
    nn, F = m.nn, m.nn.functional

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            size = (x.size(0), x.size(1), heads, width // heads)
            q, k, v = (part.view(size).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(65, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.places(m.arange(tokens.size(1)))
            return self.head(self.norm(self.blocks(x))).flatten(0, 1)

    tokens, labels = m.randint(0, 65, (batch, context)), m.randint(0, 65, (batch * context,))
    return Task(GPT(), tokens, labels, lambda parameters: m.optim.AdamW(parameters, lr=3e-4))


MODELS: dict[str, tuple[int, Callable[[Any], Task]]] = {  # name: samples a rank and step, the task
    "mlp 784-512-256-10": (64, lambda m: mlp(m, (784, 512, 256, 10), 64)),
    "mlp 1024-2048-2048-10": (64, lambda m: mlp(m, (1024, 2048, 2048, 10), 64)),
    "cnn 28x28": (32, lambda m: cnn(m, 32)),
    "gpt 4 layers, width 128": (12, lambda m: gpt(m, 12)),
}
