"""Turns and time in simulated worlds: what repeats, and what happens when nobody can go on."""

import re
import threading
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import ddp, nn
from mpigrad.ddp.comm import schedule, simulated

pytestmark = [pytest.mark.mpi_skip, pytest.mark.usefixtures("no_thread_is_left")]
Trace = list[tuple[int, int]]


def traced(seed: int | None, size: int = 4, steps: int = 6) -> tuple[Trace, list[Any]]:
    """The order in which ranks go through the steps of a training, and the gradients that they get."""
    trace: Trace = []

    def main() -> list[Any]:
        ddp.init_process_group()
        rank = ddp.get_rank()
        draw = np.random.default_rng(rank)
        model = ddp.DistributedDataParallel(nn.Linear(3, 2), check_every=0)
        for step in range(steps):
            trace.append((rank, step))
            model(mpigrad.from_numpy(draw.standard_normal((2, 3), np.float32))).sum().backward()
        return [parameter.grad.tolist() for parameter in model.parameters()]

    mpigrad.manual_seed(0)
    return trace, simulated.run(size, main, schedule=seed)


def test_a_schedule_repeats_exactly_and_the_results_do_not_depend_on_it() -> None:
    runs = {seed: [traced(seed) for _ in range(2)] for seed in (None, 0, 1, 2)}
    traces = []
    for (first, results), (second, again) in runs.values():
        assert first == second and results == again
        assert results == runs[None][0][1]
        assert all([s for r, s in first if r == rank] == list(range(6)) for rank in range(4))
        traces.append(first)
    assert all(a != b for place, a in enumerate(traces) for b in traces[:place])
    assert traces[0][:4] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_one_rank_runs_at_a_time() -> None:
    running: list[int] = []

    def main() -> None:
        ddp.init_process_group()
        for _ in range(20):
            running.append(ddp.get_rank())
            sum(range(20_000))
            assert running.pop() == ddp.get_rank() and not running
            ddp.barrier()

    simulated.run(4, main, schedule=3)


def test_messages_from_anybody_arrive_in_the_order_of_the_schedule() -> None:
    def main() -> list[int]:
        ddp.init_process_group()
        if ddp.get_rank():
            ddp.send(mpigrad.zeros(1), 0)
            return []
        return [ddp.recv(mpigrad.zeros(1)) for _ in range(4)]

    orders = [simulated.run(5, main, schedule=seed)[0] for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1] and orders[2] != orders[0] != orders[3]
    assert all(sorted(order) == [1, 2, 3, 4] for order in orders)


def test_a_standstill_is_found_at_once_and_explained_on_every_rank() -> None:
    """Ranks that wait for each other in different ways, with the default deadline of minutes."""
    told: dict[int, str] = {}

    def main() -> None:
        ddp.init_process_group()
        rank, odd = ddp.get_rank(), ddp.new_group([1, 3])
        waits = [
            lambda: ddp.all_reduce(mpigrad.zeros(5)),
            lambda: ddp.barrier(odd),
            lambda: ddp.recv(mpigrad.zeros(1), 0, tag=7),
            lambda: None,
        ]
        try:
            waits[rank]()
        except ddp.CollectiveTimeout as error:
            told[rank] = str(error)

    simulated.run(4, main)
    assert sorted(told) == [0, 1, 2]
    begins = [
        "rank 0 of 4 waited 300.0 s for all_reduce of shape [5] (number 3 on communicator 'world'): expected every "
        "rank to take part, rank(s) 1, 2, 3 did not.",
        "rank 0 of 2 waited 300.0 s for barrier (number 1 on communicator 'group 1')",
        "rank 2 of 4 waited 300.0 s for receive from rank 0 (tag 7) on communicator 'world'",
    ]
    for rank, message in told.items():
        assert message.startswith(begins[rank])
        *_, zero, one, two, three = message.splitlines()
        here = r", at test_schedule\.py:\d+ in <lambda>"
        reduction = r"  rank 0 waits for all_reduce of shape \[5\] \(number 3 on communicator 'world'\)"
        assert re.fullmatch(reduction + here, zero)
        assert re.fullmatch(r"  rank 1 waits for barrier \(number 1 on communicator 'group 1'\)" + here, one)
        assert re.fullmatch(r"  rank 2 waits for receive from rank 0 \(tag 7\) on communicator 'world'" + here, two)
        assert three == "  rank 3 has returned"


def test_deadlines_pass_in_virtual_time() -> None:
    def main() -> list[str]:
        ddp.init_process_group(timeout=1e6)
        work = None
        if ddp.get_rank() == 0:
            simulated.sleep(3600)
        else:
            work = ddp.world().barrier_start()
            for seconds in (30, 500):
                with pytest.raises(
                    ddp.CollectiveTimeout, match=r"(?s)rank 1 of 2 waited .* rank 0 sleeps until 3600 s"
                ):
                    work.wait(seconds)
            looks = 0
            while not work.is_completed():  # each look takes a moment
                looks += 1
                simulated.sleep(100)
            assert looks == (3600 - 530) // 100 + 1
        if work is None:
            ddp.barrier()
        return [f"{ddp.world().clock():.0f}"]

    assert simulated.run(2, main) == [["3600"], ["3630"]]


def test_looking_lets_others_go_on() -> None:
    def main() -> None:
        ddp.init_process_group()
        work = ddp.world().barrier_start()
        looks = 0
        while not work.is_completed():
            looks += 1
            assert looks < 10, "the others do not come"

    simulated.run(3, main)


def test_who_does_not_want_to_wait() -> None:
    def main() -> None:
        ddp.init_process_group()
        work = ddp.world().barrier_start()
        if ddp.get_rank() == 0:
            now = r"(?s)waited 0\.0 s for barrier .*rank\(s\) 1 did not.*rank 0 runs, at .*rank 1 is in split 'world'"
            with pytest.raises(ddp.CollectiveTimeout, match=now):
                work.wait(0)
        work.wait()

    simulated.run(2, main)


def test_what_was_started_is_finished_by_a_rank_that_waits_for_something_else_or_has_returned() -> None:
    def main() -> list[float]:
        ddp.init_process_group()
        array, rank = np.ones(2), ddp.get_rank()
        other = ddp.world().duplicate("other")
        if rank == 0:
            ddp.world().all_reduce_start(array)
            return array  # type: ignore[return-value]  # filled in when the others come
        if rank == 1:
            work = ddp.world().all_reduce_start(array)
            other.receive(np.empty(1), 2)
            assert array.tolist() == [3, 3] and work.is_completed()
        else:
            ddp.world().all_reduce(array)
            other.send(np.empty(1), 1)
        return array  # type: ignore[return-value]

    assert [result.tolist() for result in simulated.run(3, main)] == [[3, 3]] * 3


def test_collectives_that_do_not_match() -> None:
    def main() -> None:
        ddp.init_process_group()
        different = (
            r"expected all ranks to be in the same collective, found all_reduce sum \(loss\) on rank 0, all_reduce sum "
            r"\(loss\) on rank 1, broadcast from 1 \(weights\) on rank 2"
        )
        with pytest.raises(RuntimeError, match=different):
            if ddp.get_rank() == 2:
                ddp.world().broadcast(np.ones(2), 1, "weights")
            else:
                ddp.world().all_reduce(np.ones(2), name="loss")

    simulated.run(3, main)


def test_another_thread_of_a_rank_is_refused() -> None:
    def main() -> None:
        ddp.init_process_group()
        errors: list[BaseException] = []
        world = ddp.world()

        def elsewhere() -> None:
            try:
                world.barrier()
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere, name="elsewhere")
        thread.start()
        thread.join()
        expected = f"expected the thread of simulated rank {ddp.get_rank()}, found 'elsewhere'"
        assert str(errors[0]).startswith(expected)
        ddp.barrier()

    simulated.run(2, main)


def test_a_rank_that_waits_for_another_by_other_means_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "PATIENCE", 0.05)
    door = threading.Event()

    def main() -> None:
        ddp.init_process_group()
        if ddp.get_rank() == 1:
            door.wait(20)
        else:
            ddp.barrier()
            door.set()

    assert simulated.run(1, door.wait, 0.2, timeout=0.01) == [False]  # nobody waits for that one
    monkeypatch.setattr(schedule, "PATIENCE", 0.5)  # so long a busy machine may keep a thread from running
    with pytest.raises(RuntimeError, match=r"(?s)has kept its turn for more than .* rank 1 runs, at test_schedule\.py"):
        simulated.run(3, main, timeout=0.01)
    stuck = {thread.name: thread for thread in threading.enumerate() if thread.name.startswith("rank ")}
    for name, thread in stuck.items():
        thread.join(0 if name == "rank 1" else 20)
        assert thread.is_alive() == (name == "rank 1")
    door.set()
    for thread in stuck.values():
        thread.join(20)
