import io

import pytest

from mpigrad.launch.noise import Sieve

RULE = "-" * 74
BAR = "=" * 83
MPICH_KILLED = f"""
{BAR}
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 3989 RUNNING AT node7
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
{BAR}
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
"""
MPICH_ABORTED = "Abort(3) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 3) - process 1\n"
OPENMPI_ABORTED = f"""{RULE}
MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD
  Proc: [[25799,1],1]
  Errorcode: 3

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
{RULE}
\0{RULE}
prterun has exited due to process rank 1 with PID 0 on node vm calling
"abort". This may have caused other processes in the application to be
terminated by signals sent by prterun (as reported here).
{RULE}
"""
OPENMPI_4_KILLED = f"""{RULE}
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
{RULE}
{RULE}
mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).
{RULE}
[node7:17371] 1 more process has sent help message help-mpi-api.txt / mpi-abort
[node7:17371] Set MCA parameter "orte_base_help_aggregate" to 0 to see all help / error messages
"""
NOISE = [MPICH_KILLED, MPICH_ABORTED, OPENMPI_ABORTED, OPENMPI_4_KILLED]


class Stream:
    """A sieve and what has come out of it."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        self.notices: list[str] = []
        self.sieve = Sieve(self.bytes, self.notices)

    @property
    def out(self) -> str:
        return self.bytes.getvalue().decode()


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("noise", NOISE)
def test_notices_are_kept_back_whatever_the_pieces(noise: str, piece: int) -> None:
    stream = Stream()
    data = f"epoch 1\n{noise}epoch 2\n".encode()
    for start in range(0, len(data), piece):
        stream.sieve.feed(data[start : start + piece])
    stream.sieve.close()
    assert stream.out == "epoch 1\nepoch 2\n"
    words = " ".join("".join(stream.notices).split())
    assert words == " ".join(noise.split())


def test_labels_hide_no_notice() -> None:
    stream = Stream()
    stream.sieve.feed(f"[0] epoch 1\n[1] {MPICH_ABORTED}[1,0]<stderr>: epoch 2\n[1,1]<stderr>: \0".encode())
    stream.sieve.close()
    assert stream.out == "[0] epoch 1\n[1,0]<stderr>: epoch 2\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{RULE}\nresults\n{RULE}\n",
        f"{RULE}\n{RULE}\n{BAR}\n\n{BAR}\n{RULE}\n",
        "\n\nblank lines\n\n",
        "a\rb\rc 10%\r\n",
        "no newline at the end",
        f"{RULE}",
        f"{RULE}\nMPI_ABORT was invoked on rank 1, but the box has no end\n",
        "x" * 10_000,
        "> Abort(3) on node 1 (rank 1 in comm 0) is what MPICH prints\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_everything_else_comes_out_unchanged(text: str, piece: int) -> None:
    stream = Stream()
    for start in range(0, len(text), piece):
        stream.sieve.feed(text[start : start + piece].encode())
    stream.sieve.close()
    assert stream.out == text
    assert not stream.notices


def test_an_unfinished_line_waits_for_the_next_release_only() -> None:
    stream = Stream()
    stream.sieve.feed(b"done\n 10%")
    assert stream.out == "done\n"
    stream.sieve.release()
    assert stream.out == "done\n 10%"
    stream.sieve.feed(b"\r 20%\nnext\n")
    assert stream.out == "done\n 10%\r 20%\nnext\n"


def test_a_rule_on_its_own_comes_out_at_the_next_release() -> None:
    stream = Stream()
    stream.sieve.feed(f"{RULE}\n".encode())
    assert not stream.out
    stream.sieve.release()
    assert stream.out == f"{RULE}\n"
