"""Worker processes of a PyTorch script that mpigrad runs."""

from pathlib import Path
from typing import Any


def test_worker_processes(tmp_path: Path, jobs: Any) -> None:
    """They import the script, which imports PyTorch, and classes that it defines."""
    (tmp_path / "load.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, Dataset, get_worker_info\n"
        "class Squares(Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): return torch.tensor(i * i), get_worker_info().num_workers, torch.__name__\n"
        "if __name__ == '__main__':\n"
        "    print([(a.tolist(), b.tolist(), c) for a, b, c in DataLoader(Squares(), 2, num_workers=2)])\n"
    )
    done = jobs.run("run", "-n", 1, "--as-torch", "load.py")
    assert done.code == 0, done.err
    assert done.out.strip() == "[([0, 1], [2, 2], ('torch', 'torch')), ([4, 9], [2, 2], ('torch', 'torch'))]"
