"""Agreement of the ranks: what has to be equal on all of them is compared before it can do damage.

A subject (a module, an optimizer, a dataset, a number) is described by facts: short texts by name. Ranks first gather
a digest of their facts, 16 bytes; only when these differ, the facts themselves, of which all ranks then make one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xxhash import xxh3_128

from .comm.protocol import Communicator, RanksDiffer
from .facts import Facts, facts_of, surroundings
from .process_group import world

__all__ = ["agree", "by_rank", "compare", "gather_digests", "name_ranks"]

MOST = 20  # differing facts that are told
ALIKE = "build the model from the same arguments everywhere"


def agree(**subjects: Any) -> None:
    """Raise RanksDiffer on every rank, with all differences, unless the subjects describe the same on all ranks.

        ddp.agree(model=model, optimizer=optimizer, data=dataset, sampler=sampler, seed=seed, config=config)

    Compared are of a module the names, shapes, dtypes and trainable flags of its parameters, and its buffers; of an
    optimizer its type, hyper-parameters and parameters; of a dataset its length and eight of its items (random
    transforms draw equal numbers on all ranks meanwhile, and leave the generators as they were); of arrays and tensors
    all elements; of mappings, sequences and dataclasses what is in them; of numbers, strings, paths and other plain
    values their text; of anything else, samplers for one, its type and those public attributes that are plain, but for
    `rank`. Beside the subjects: the versions of Python, of mpigrad, of what it is built on and of the MPI library, and
    digests of the text of mpigrad and of the script. Collective.
    """
    facts = surroundings()
    for name, subject in subjects.items():
        facts.update(facts_of(name, subject))
    compare(world(), facts, "expected the same on every rank", "start every rank from the same files and arguments")


def compare(communicator: Communicator, facts: Facts, expected: str, remedy: str) -> None:
    """RanksDiffer, which begins with `expected` and ends with `remedy`, unless all ranks have these facts."""
    content = "".join(f"{name}\0{fact}\0" for name, fact in facts.items()).encode()
    digests = gather_digests(communicator, xxh3_128(content).digest(), "agreement of the ranks")
    if len(set(digests)) == 1:
        return
    first = digests.index(digests[communicator.rank])  # of those that agree one speaks for all
    told = communicator.all_gather_object(facts if communicator.rank == first else None, "differing facts")
    everyones: list[Facts] = [told[digests.index(digest)] for digest in digests]
    names = dict.fromkeys(name for found in everyones for name in found)
    lines = {name: [found.get(name, "nothing") for found in everyones] for name in names}
    differing = {name: values for name, values in lines.items() if len(set(values)) > 1}
    if not differing:
        orders = enumerate(zip(*everyones, strict=True))
        differing = {f"number {place} in order": list(row) for place, row in orders if len(set(row)) > 1}
    shown = [f"  {name}   {by_rank(values)}" for name, values in list(differing.items())[:MOST]]
    more = len(differing) - MOST
    rest = [f"  and {more} more"] if more > 0 else []
    text = "\n".join([f"{expected}, found differences:", *shown, *rest, remedy])
    raise RanksDiffer(text)


def by_rank(values: Sequence[str]) -> str:
    """Who has what: `ranks 0, 2-4: 0.1 / rank 1: 0.2`; values are in rank order."""
    holders: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        holders.setdefault(value, []).append(rank)
    return " / ".join(f"{name_ranks(ranks)}: {value}" for value, ranks in holders.items())


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 1`, `ranks 0, 2-4`."""
    rows: list[list[int]] = []
    for rank in ranks:
        if rows and rank == rows[-1][-1] + 1:
            rows[-1].append(rank)
        else:
            rows.append([rank])
    parts = [f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(parts)}"


def gather_digests(communicator: Communicator, digest: bytes, name: str) -> list[bytes]:
    """Every rank's digest of 16 bytes, in rank order."""
    everyones = np.empty((communicator.size, 2), np.uint64)
    communicator.all_gather(np.frombuffer(digest, np.uint64), everyones, name)
    return [row.tobytes() for row in everyones]
