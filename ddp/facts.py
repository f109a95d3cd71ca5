"""What there is to compare of a subject: facts, which are short texts by name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64

from ..core.backend import to_host
from ..core.data.dataset import IterableDataset
from ..core.dtypes import dtype
from ..core.generator import Generator, drawing_from
from ..core.nn.module import Module
from ..core.optim.optimizer import Optimizer
from ..core.tensor import Tensor

__all__ = ["SAMPLES", "Facts", "facts_of", "surroundings"]

Facts = dict[str, str]

PACKAGES = ("numpy", "scipy", "ml-dtypes", "mpi4py", "xxhash", "numba", "cupy-cuda12x", "cupy-cuda13x")
SAMPLES = 8  # of a dataset, from the first to the last, that are part of its fingerprint
LONGEST = 160  # characters of a fact
PLAIN = (type(None), bool, int, float, complex, str, bytes)


def facts_of(name: str, subject: Any) -> Facts:
    """What there is to compare of a subject."""
    return {place: text if len(text) <= LONGEST else _shortened(text) for place, text in _facts(name, subject)}


def _shortened(text: str) -> str:
    return f"{text[: LONGEST - 40]}... ({len(text)} characters, digest {_digest([text.encode()])})"


def _facts(name: str, subject: Any) -> Iterator[tuple[str, str]]:
    if isinstance(subject, Module):
        yield from _of_module(name, subject)
    elif isinstance(subject, Optimizer):
        yield from _of_optimizer(name, subject)
    elif isinstance(subject, (Tensor, np.ndarray)):
        yield name, _array(subject)
    elif isinstance(subject, (*PLAIN, Path, np.generic, dtype, range)):
        yield name, repr(subject)
    elif dataclasses.is_dataclass(subject) and not isinstance(subject, type):
        for field in dataclasses.fields(subject):
            yield from _facts(f"{name}.{field.name}", getattr(subject, field.name))
    elif isinstance(subject, Mapping):
        for key, value in subject.items():
            yield from _facts(f"{name}.{key}", value)
    elif isinstance(subject, (list, tuple)):
        yield name, f"{len(subject)} items"
        for index, value in enumerate(subject):
            yield from _facts(f"{name}[{index}]", value)
    elif isinstance(subject, (set, frozenset)):
        yield name, repr(sorted(map(repr, subject)))
    elif isinstance(subject, type) or (callable(subject) and hasattr(subject, "__qualname__")):
        yield name, f"{subject.__module__}.{subject.__qualname__}"
    elif hasattr(subject, "__getitem__") and isinstance(subject, Sized):
        yield from _of_dataset(name, subject)
    else:
        yield name, type(subject).__qualname__
        own = {} if isinstance(subject, IterableDataset) else getattr(subject, "__dict__", {})
        for key, value in own.items():
            plain = isinstance(value, PLAIN) or dataclasses.is_dataclass(value)
            if plain and key != "rank" and not key.startswith("_"):
                yield from _facts(f"{name}.{key}", value)


def _of_module(name: str, module: Module) -> Iterator[tuple[str, str]]:
    yield name, type(module).__qualname__
    for key, parameter in module.named_parameters():
        flag = "trained" if parameter.requires_grad else "frozen"
        yield f"{name}.{key}", f"{flag} {parameter.dtype.name} {list(parameter.shape)}"
    for key, buffer in module.named_buffers():
        yield f"{name}.{key}", f"buffer {buffer.dtype.name} {list(buffer.shape)}"


def _of_optimizer(name: str, optimizer: Optimizer) -> Iterator[tuple[str, str]]:
    yield name, type(optimizer).__qualname__
    for number, group in enumerate(optimizer.param_groups):
        place = f"{name}.param_groups[{number}]"
        for key, value in group.items():
            if key != "params":
                yield f"{place}.{key}", repr(value.item() if isinstance(value, Tensor) else value)
        yield f"{place}.params", ", ".join(str(list(parameter.shape)) for parameter in group["params"])


def _of_dataset(name: str, data: Any) -> Iterator[tuple[str, str]]:
    count = len(data)
    places = sorted({place * (count - 1) // (SAMPLES - 1) for place in range(SAMPLES)}) if count else []
    yield name, type(data).__qualname__
    yield f"{name}.length", str(count)
    with _fixed_random_numbers():
        parts = [part for place in places for part in _parts(data[place])]
    yield f"{name}.fingerprint", f"{_digest(parts)} of items {', '.join(map(str, places))}"


@contextlib.contextmanager
def _fixed_random_numbers() -> Iterator[None]:
    """Within the block every rank draws the same, from whichever generator; afterwards they are as they were."""
    python, numpys = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with drawing_from(Generator().manual_seed(0)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)


def _parts(item: Any) -> Iterator[bytes]:
    """What a sample consists of, as bytes; of objects that are no arrays and no plain values only the type."""
    if isinstance(item, Mapping):
        for key, value in item.items():
            yield repr(key).encode()
            yield from _parts(value)
    elif isinstance(item, (list, tuple)):
        yield str(len(item)).encode()
        for value in item:
            yield from _parts(value)
    elif isinstance(item, Tensor) or hasattr(item, "__array__") or hasattr(item, "__array_interface__"):  # also images
        yield _array(item).encode()
    elif isinstance(item, PLAIN):
        yield repr(item).encode()
    else:
        yield type(item).__qualname__.encode()


def _array(array: Any) -> str:
    found = np.asarray(to_host(array.array) if isinstance(array, Tensor) else array)
    content = repr(found.tolist()).encode() if found.dtype.hasobject else np.ascontiguousarray(found).tobytes()
    return f"{found.dtype.name} {list(found.shape)} {_digest([content])}"


# --- what the library knows by itself ---------------------------------------------------------------------------------


def surroundings() -> Facts:
    """The versions of what computes, and digests of the text of mpigrad and of the script."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return {**_installed(), "script": _of_script(script) if script else "none"}


def _of_script(path: str) -> str:
    with contextlib.suppress(OSError):
        return f"{Path(path).name}, digest {_digest([Path(path).read_bytes()])}"
    return f"{Path(path).name}, not readable"


@functools.cache
def _installed() -> Facts:
    facts = {"python": f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    if transport := sys.modules.get(f"{__package__}.comm.mpi"):  # only where an MPI library is loaded
        facts["MPI library"] = transport.library_version()
    here = Path(__file__).parents[1]
    folders = (here, *(here / name for name in ("core", "ddp", "launch")))  # they may be links, which are not followed
    files = {str(file.relative_to(here)): file for folder in folders for file in folder.rglob("*.py")}
    parts = (part for name in sorted(files) for part in (name.encode(), files[name].read_bytes()))
    facts["mpigrad"] = f"{len(files)} files, digest {_digest(parts)}"
    return facts


def _digest(parts: Iterable[bytes]) -> str:
    """16 hex digits: enough to tell texts and samples apart that nobody has forged."""
    state = xxh3_64()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()
