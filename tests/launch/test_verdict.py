import signal
from pathlib import Path

import pytest

from mpigrad.launch.report import Report
from mpigrad.launch.supervise import End
from mpigrad.launch.verdict import verdict

STOPPED = "; all ranks were stopped"
HINT = ", as the kernel does when memory runs out"


def end(status: int, *notices: str) -> End:
    return End("mpirun", status, None, False, notices)


def write(folder: Path, *failures: tuple[int, str]) -> None:
    for moment, (rank, error) in enumerate(failures):
        Report(rank, 4, float(moment), error, f"Traceback\n{error}", 1).write(folder)
        next(folder.glob("*-*.report")).rename(folder / f"{moment}.report")


def test_success(tmp_path: Path) -> None:
    assert verdict(end(0), tmp_path, 2) == (0, "")


@pytest.mark.parametrize(
    ("others", "remark"),
    [
        ([], ""),
        ([(0, "E: x")], " (rank 0 failed with the same error)"),
        ([(0, "E: x"), (3, "E: x")], " (ranks 0, 3 failed with the same error)"),
        ([(0, "E: y"), (3, "E: x")], " (rank 0 failed after it: E: y; rank 3 failed with the same error)"),
    ],
)
def test_the_first_failure_is_told_last(tmp_path: Path, others: list[tuple[int, str]], remark: str) -> None:
    write(tmp_path, (1, "E: x"), *others)
    code, words = verdict(end(1), tmp_path, 4)
    assert code == 1
    assert words == f"rank 1 of 4 failed first{STOPPED}{remark}.\nTraceback\nE: x"


def test_the_script_alone(tmp_path: Path) -> None:
    Report(0, 1, 0.0, "SystemExit: no such file", "no such file", 3).write(tmp_path)
    assert verdict(end(3), tmp_path, 1) == (3, "the script failed.\nno such file")


@pytest.mark.parametrize(
    ("notice", "code", "words"),
    [
        (
            "prterun noticed that process rank 1 with PID 3998 on node vm exited on\nsignal 9 (Killed).",
            137,
            f"rank 1 of 2 was killed by SIGKILL{HINT}{STOPPED}.",
        ),
        (
            "=   PID 3989 RUNNING AT vm\n=   EXIT CODE: 11\n=   CLEANING UP\n====\n"
            "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Segmentation fault (signal 11)\n",
            139,
            f"rank 0 of 2 was killed by SIGSEGV{STOPPED}.",
        ),
        (
            "=   RANK 0 PID 5484 RUNNING AT vm\n=   KILLED BY SIGNAL: 9 (Killed)\n===\n===\n"
            "=   RANK 1 PID 5485 RUNNING AT vm\n=   KILLED BY SIGNAL: 9 (Killed)\n",
            137,
            f"ranks 0, 1 of 2 were killed by SIGKILL{STOPPED}.",
        ),
        (
            "The first process to do so was:\n\n   Process name: [prterun-vm-5417@1,1]\n   Exit code:    3\n",
            3,
            f"rank 1 of 2 ended with exit code 3, without a Python error{STOPPED}.",
        ),
        (
            "prterun has exited due to process rank 1 with PID 5442 on node vm exiting\nimproperly. There are three",
            1,
            f"rank 1 of 2 ended before the script did{STOPPED}.",
        ),
        (
            "=   PID 4711 RUNNING AT elsewhere\n=   EXIT CODE: 5\n=   CLEANING",
            5,
            f"a rank ended with exit code 5, without a Python error{STOPPED}.",
        ),
    ],
)
def test_deaths_without_a_report(tmp_path: Path, notice: str, code: int, words: str) -> None:
    (tmp_path / "0-3989.running").touch()
    assert verdict(end(1, notice), tmp_path, 2) == (code, words)


def test_a_crash_shows_where_python_was(tmp_path: Path) -> None:
    frames = '  File "t.py", line 1 in f\n  File "<frozen runpy>", line 2'
    (tmp_path / "1-3989.running").write_text(f"Fatal Python error\n{frames}\n\nExtension modules: a (total: 1)")
    notice = "process rank 1 with PID 3989 on node vm exited on signal 11"
    words = f'rank 1 of 2 was killed by SIGSEGV{STOPPED}.\nIn rank 1:\nFatal Python error\n  File "t.py", line 1 in f'
    assert verdict(end(139, notice), tmp_path, 2) == (139, words)


def test_a_launchers_success_is_not_enough(tmp_path: Path) -> None:
    for name in ("0-10.running", "1-11.running"):
        (tmp_path / name).touch()
    assert verdict(end(0), tmp_path, 3) == (1, f"ranks 0, 1 of 3 ended before the script did{STOPPED}.")


def test_the_launcher_killed(tmp_path: Path) -> None:
    assert verdict(end(-9), tmp_path, 2) == (137, f"mpirun was killed by SIGKILL{HINT}{STOPPED}.")


def test_with_nothing_better_the_mpis_own_words(tmp_path: Path) -> None:
    words = "the job failed, but no rank said why.\nnot enough slots"
    assert verdict(end(1, "not enough slots\n"), tmp_path, 2) == (1, words)


def test_stopped_from_outside(tmp_path: Path) -> None:
    write(tmp_path, (1, "KeyboardInterrupt"))
    assert verdict(End("mpirun", 1, signal.SIGINT, False, ()), tmp_path, 2) == (130, f"stopped by SIGINT{STOPPED}.")
    assert verdict(End("mpirun", 1, None, True, ()), tmp_path, 2, 1.5) == (
        124,
        f"not done after 1.5 s, the --timeout{STOPPED}.",
    )
