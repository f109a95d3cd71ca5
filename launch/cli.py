"""The command line: `mpigrad run -n 4 script.py args...`."""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from . import bench
from .cores import usable_cores
from .mpirun import MPINotFound, build_command, find_mpi
from .rank import AS_TORCH, REPORT_DIR
from .supervise import supervise
from .verdict import verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the command line and return the exit code."""
    options = _parser().parse_args(argv)
    code: int = options.command(options)
    return code


def run(options: argparse.Namespace) -> int:
    """Start the ranks, wait for them and, if they fail, end with the reason."""
    script = ["-m", *options.module] if options.module else options.script
    if options.device and not options.as_torch:
        return _refuse("--device says where the devices of a PyTorch script are: it goes with --as-torch")
    if not script:
        return _refuse("name a script to run, or -m and a module")
    if not options.module and not os.path.exists(script[0]):
        return _refuse(f"there is no script {script[0]}")
    if options.as_torch:
        script = [AS_TORCH, options.device or "own", *script]
    if options.ranks < 1:
        return _refuse(f"-n is the number of ranks, at least 1, not {options.ranks}")
    try:
        installation = find_mpi(options.mpi)
    except MPINotFound as error:
        if options.ranks > 1 or options.mpi:
            return _refuse(str(error))
        installation = None  # one process needs no launcher

    command, additions = build_command(
        installation,
        options.ranks,
        script,
        python=sys.executable,
        env=os.environ,
        cores=len(usable_cores()),
        is_root=os.geteuid() == 0,
        label=options.label,
    )
    if options.dry_run:
        print(" ".join(f"{name}={shlex.quote(value)}" for name, value in additions.items()), shlex.join(command))
        return 0
    with tempfile.TemporaryDirectory(prefix="mpigrad-", ignore_cleanup_errors=True) as folder:
        reports = Path(folder)
        try:
            end = supervise(
                command,
                {**_quiet_bars(), **os.environ, **additions, REPORT_DIR: folder},
                REPORT_DIR,
                timeout=options.timeout,
                failed=lambda: any(reports.glob("*.report")),
            )
        except BrokenPipeError:  # nobody reads the output any more: `mpigrad run ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        finally:
            for segments in reports.glob("*.segments"):  # an MPI that is killed leaves its shared memory behind
                for segment in segments.read_text().split():
                    Path(segment).unlink(missing_ok=True)
        code, words = verdict(end, reports, options.ranks, options.timeout)
    if words:
        print(f"mpigrad run: {words}", file=sys.stderr)
    return code


def bench_allreduce(options: argparse.Namespace) -> int:
    """Measure all-reduce on the ranks of this machine."""
    if options.ranks < 2:
        return _refuse(f"-n is the number of ranks that reduce together, at least 2, not {options.ranks}", "bench")
    if options.rounds < 1 or options.max_mb * bench.MIB < bench.SIZES[0]:
        return _refuse("expected at least one round (--rounds) and at least 0.001 MiB (--max-mb)", "bench")
    mpi = ["--mpi", options.mpi] if options.mpi else []
    rest = ["--max-mb", str(options.max_mb), "--rounds", str(options.rounds)]
    for name in ("plot", "json"):
        if path := getattr(options, name):
            if not path.absolute().parent.is_dir():
                return _refuse(f"--{name} {path}: there is no folder {path.absolute().parent}", "bench")
            rest += [f"--{name}", str(path)]
    return main(["run", "-n", str(options.ranks), *mpi, "-m", "mpigrad.launch.bench", *rest])


def _quiet_bars() -> dict[str, str]:
    """The ranks see a pipe where a terminal may be: tell tqdm by its own variable whether anybody watches."""
    return {} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"}


def _refuse(why: str, command: str = "run") -> int:
    print(f"mpigrad {command}: {why}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpigrad", description="Train data-parallel over MPI.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mpigrad {version('mpigrad')}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)

    run_parser = commands.add_parser(
        "run",
        help="run a script on several ranks",
        description="Run a script on the ranks of this machine. When one fails, all stop and the reason comes last.",
        usage="mpigrad run [-n N] [--mpi PREFIX] [--label] [--timeout S] [--dry-run] [--as-torch [--device cpu]]\n"
        "                   (script.py | -m module) [args]",
        allow_abbrev=False,
    )
    run_parser.set_defaults(command=run)
    add = run_parser.add_argument
    add("-n", dest="ranks", type=int, default=1, metavar="N", help="number of ranks (default: 1)")
    add("--mpi", metavar="PREFIX", help="MPI to use: a directory with bin/mpirun, or the path of an mpirun")
    add("--label", action="store_true", help="begin each line of output with its rank")
    add("--timeout", type=float, metavar="S", help="stop the job after so many seconds (exit code 124)")
    add("--dry-run", action="store_true", help="print the command, ready for a shell, instead of running it")
    add(AS_TORCH, action="store_true", help="run a PyTorch script: `import torch` and its modules mean mpigrad")
    add("--device", choices=["cpu"], help="with --as-torch: every device that the script names is the CPU")
    add("-m", dest="module", nargs=argparse.REMAINDER, metavar="module", help="run a module, as python -m does")
    add("script", nargs=argparse.REMAINDER, help="the script and its arguments, passed on as they are")

    bench_parser = commands.add_parser("bench", help="measure what this machine does")
    benches = bench_parser.add_subparsers(title="benchmarks", metavar="benchmark", required=True)
    allreduce = benches.add_parser(
        "allreduce",
        help="bandwidth of every transport, beside the MPI library's own Allreduce and a copy",
        description="Reduce buffers of growing size on this machine's ranks, by every transport that fits, by the "
        "MPI library's own Allreduce, and copy as much memory, in turns; print GB/s. Let nothing else run meanwhile.",
        allow_abbrev=False,
    )
    allreduce.set_defaults(command=bench_allreduce)
    allreduce.add_argument("-n", dest="ranks", type=int, default=2, metavar="N", help="number of ranks (default: 2)")
    allreduce.add_argument("--mpi", metavar="PREFIX", help="MPI to use: a directory with bin/mpirun, or an mpirun")
    bench.arguments(allreduce)
    return parser


if __name__ == "__main__":
    sys.exit(main())
