import time
from pathlib import Path

import pytest

from mpigrad.launch import report
from mpigrad.launch.report import Report, bring_down, read


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001  (any error at all)
        return raised


def test_of_an_exception() -> None:
    made = Report.of(caught(ValueError("bad")), rank=1, size=2)
    assert (made.rank, made.size, made.code, made.error) == (1, 2, 1, "ValueError: bad")
    assert made.text.startswith("Traceback (most recent call last):\n")
    assert made.text.endswith("raise error\nValueError: bad")
    assert abs(made.time - time.time()) < 5


def test_launcher_frames_are_hidden() -> None:
    made = Report.of(caught(ValueError("bad")), 0, 1, hide=[__file__])
    assert made.text == "ValueError: bad"


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [("no such file", 1, "no such file"), (3, 3, "exit code 3"), (256, 1, "exit code 256"), (-1, 255, "exit code -1")],
)
def test_of_an_exit(argument: object, code: int, text: str) -> None:
    made = Report.of(SystemExit(argument), 0, 2)
    assert (made.code, made.text) == (code, text)


def test_of_an_interrupt() -> None:
    assert Report.of(caught(KeyboardInterrupt()), 0, 1).code == 130


def test_written_and_read_in_order_of_failure(tmp_path: Path) -> None:
    late = Report(0, 2, 11.0, "E", "text", 1)
    early = Report(0, 2, 10.0, "E", "text\nof ünicode", 1)  # the same number: a rank that could not know its own
    early.write(tmp_path)
    (tmp_path / "0-1.report").write_text((next(tmp_path.glob("*.report"))).read_text())
    late.write(tmp_path)
    assert read(tmp_path) == [early, late]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("reachable", [True, False])
def test_bring_down(
    tmp_path: Path, reachable: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "GRACE", 0.01)
    aborted: list[int] = []
    made = Report(1, 2, 10.0, "E", "the text", 7)
    bring_down(made, tmp_path if reachable else tmp_path / "on another node", aborted.append)
    assert aborted == [7]
    assert read(tmp_path) == [made] * reachable
    assert ("rank 1 of 2 failed:\nthe text\n" in capsys.readouterr().err) is not reachable
