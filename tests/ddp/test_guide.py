"""The examples of docs/data-parallel.md run, on one rank and on several."""

import re
from pathlib import Path
from typing import Any

import pytest

import mpigrad
from mpigrad import ddp
from mpigrad.ddp.testing import simulated

GUIDE = Path(__file__).parents[2] / "docs/data-parallel.md"


@pytest.mark.mpi_skip
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
def test_examples(example: str, ranks: int, capsys: Any) -> None:
    """Afterwards every rank holds the same model."""
    mpigrad.manual_seed(0)

    def main() -> str:
        names: dict[str, Any] = {}
        exec(compile(example, str(GUIDE), "exec"), names)
        return ddp.digest(names["model"].state_dict())

    assert len(set(simulated.run(ranks, main))) == 1
    if "traffic" in example and ranks == 2:
        assert "10,240 bytes instead of 1,050,624" in capsys.readouterr().out
