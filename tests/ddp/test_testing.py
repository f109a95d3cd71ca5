"""What users' tests are given, and the examples of docs/testing.md."""

import re
from pathlib import Path
from typing import Any

import pytest

import mpigrad
from mpigrad import ddp
from mpigrad.ddp.process_group import promised_size
from mpigrad.ddp.testing import Dead, Raises, on_ranks, parallel_raises, simulated

GUIDE = Path(__file__).parents[2] / "docs/testing.md"


def test_functions_on_ranks() -> None:
    launched = promised_size() or 1
    size = launched if launched > 1 else 3
    found = on_ranks(3, lambda factor: (factor * ddp.get_rank(), ddp.get_world_size()), 10)
    assert found == [(10 * rank, size) for rank in range(size)] and not ddp.is_initialized()


def test_errors_on_all_ranks(world: Any) -> None:
    def main() -> None:
        rank = ddp.get_rank()
        with parallel_raises(ValueError, match=r"of rank \d") as caught:
            assert caught.value is None
            raise ValueError(f"the batch of rank {rank}")
        assert str(caught.value) == f"the batch of rank {rank}"
        with parallel_raises((KeyError, SystemExit)):
            raise SystemExit(3) if rank else KeyError(rank)
        ddp.barrier()  # nothing is left behind

    world(main)


def test_errors_on_named_ranks(world: Any) -> None:
    def main() -> None:
        rank, last = ddp.get_rank(), ddp.get_world_size() - 1
        with parallel_raises(IndexError, ranks=[last]) as caught:
            [][0 if rank == last else slice(None)]  # type: ignore[call-overload]
        assert (caught.value is None) == (rank != last)

    world(main)


def test_what_is_otherwise_is_told_to_every_rank(world: Any) -> None:
    def main() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()

        def told(*expected: Any, raised: BaseException | None, **options: Any) -> str:
            with pytest.raises(AssertionError) as caught, parallel_raises(*expected, **options):
                if raised is not None:
                    raise raised
            assert caught.value.__cause__ is raised
            return str(caught.value)

        last = size - 1
        message = told(ValueError, raised=None if rank == last else ValueError(f"of rank {rank}"))
        lines = [f"\n  rank {r}: ValueError: of rank {r}" for r in range(last)]
        assert message == f"expected ValueError on every rank, found{''.join(lines)}\n  rank {last}: nothing"

        message = told(ValueError, "yes", raised=ValueError("no" if rank == last else "yes"))
        assert message.startswith("expected ValueError matching 'yes' on every rank, found\n  rank 0: ValueError: ")
        assert message.endswith(f"rank {last}: ValueError: no")

        message = told((OSError, KeyError), raised=TypeError("other"))
        assert message.startswith("expected OSError or KeyError on every rank, found\n  rank 0: TypeError: other")

        message = told(OSError, raised=OSError("all"), ranks=[])
        assert message.startswith("expected OSError on rank(s) none only, found\n  rank 0: OSError: all")

    world(main)


def test_ranks_that_wait_for_one_that_has_raised(world: Any) -> None:
    """Their deadline passes in the block, on every transport."""

    def main() -> None:
        if ddp.get_world_size() == 1:
            return
        group = ddp.new_group(timeout=None if world.kind == "simulated" else 1)  # None: the same as the world's
        assert isinstance(group, ddp.ProcessGroup)
        with parallel_raises((OSError, ddp.CollectiveTimeout)) as caught:
            if ddp.get_rank() == 0:
                raise OSError("the disk is full")
            ddp.barrier(group)
        assert isinstance(caught.value, ddp.CollectiveTimeout if ddp.get_rank() else OSError)
        if ddp.get_rank() == 0:
            ddp.barrier(group)  # at last: the others' thread has waited for it
        ddp.barrier()

    world(main)


@pytest.mark.mpi_skip
def test_faults_in_a_block() -> None:
    def main() -> None:
        ddp.init_process_group()
        broken = ddp.world().duplicate("broken")
        with parallel_raises(OSError, "disk", ranks=[1]):
            if ddp.get_rank() == 1:
                broken.barrier()
        with parallel_raises(ddp.CollectiveTimeout):
            ddp.barrier()

    faults = [Raises(1, "barrier", OSError("the disk is full")), Dead(2, "barrier")]
    with pytest.raises(ddp.CollectiveTimeout, match=r"(?s)for comparison of what .* rank 2 died before barrier"):
        simulated.run(3, main, faults=faults)


@pytest.mark.mpi_skip
@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
def test_the_guides_examples(example: str) -> None:
    """Each is a test module of its own."""
    mpigrad.manual_seed(0)
    module: dict[str, Any] = {}
    exec(compile(example, str(GUIDE), "exec"), module)
    tests = [value for name, value in module.items() if name.startswith("test_")]
    assert tests, "an example without a test"
    for test in tests:
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for value in marks[0].args[1] if marks else [None]:
            test(value) if marks else test()
