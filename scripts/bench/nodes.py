"""Two nodes on one machine: network namespaces with an address, a host name and a /dev/shm each, and a link between.

    with Nodes() as nodes:
        nodes.slow_down("200mbit", "1ms")
        command, env = nodes.command(find_mpi(), 2, ["script.py"])  # 2 ranks on each node

The namespaces belong to processes that end when this one does, however it ends; with them go the link and its speed.
Needs Linux, root, and the programs ip, tc, unshare and nsenter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from mpigrad.launch.cores import usable_cores
from mpigrad.launch.mpirun import Installation, build_command

# addresses for tests of equipment, which no network routes (RFC 2544)
ADDRESSES = ("198.18.77.1", "198.18.77.2")
START = (
    "mount -t sysfs none /sys && mount -t tmpfs none /dev/shm && hostname node{number} && ip link set lo up"
    " && echo ready && exec cat"
)
# Or the ranks would find ways around the link. One cannot get from one namespace of processes to the one beside it, so
# the first node, from which all is started, has none of its own.
APART = ("--net", "--uts", "--mount", "--ipc")
ONLY_SECOND = ("--pid",)
# what the launchers call in the place of ssh: [options] host command...
AGENT = """#!/bin/sh
while case "$1" in -*) true;; *) false;; esac; do shift; done
[ "$1" = {address} ] || {{ echo "expected host {address}, found $1" >&2; exit 1; }}
shift
exec {enter} sh -c "$*"
"""


class NotPossible(RuntimeError):
    """This machine does not allow it: the message says what failed."""


class Nodes:
    """Two nodes. NotPossible when the machine does not allow them."""

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[str]] = []
        self._inside: list[int] = []  # a process on each node
        self._folder = tempfile.TemporaryDirectory(prefix="mpigrad-nodes-")
        try:
            for number in range(len(ADDRESSES)):
                self._hold(number)
            first, second = map(str, self._inside)
            _do("ip", "link", "add", "link0", "netns", first, "type", "veth", "peer", "name", "link0", "netns", second)
            for number, address in enumerate(ADDRESSES):
                self._on(number, "ip", "addr", "add", f"{address}/24", "dev", "link0")
                self._on(number, "ip", "link", "set", "link0", "up")
            for number in range(len(ADDRESSES)):
                self._wait_for_link(number)
        except BaseException:
            self.close()
            raise
        self._agent = Path(self._folder.name, "agent")
        there = " ".join(self._enter(1))
        self._agent.write_text(AGENT.format(address=ADDRESSES[1], enter=there))
        self._agent.chmod(0o700)

    def _hold(self, number: int) -> None:
        own = [*APART, *ONLY_SECOND, "--mount-proc", "--fork"] if number else APART
        try:
            holder = subprocess.Popen(
                ["unshare", *own, "sh", "-c", START.format(number=number)],
                stdin=subprocess.PIPE,  # closed when this process ends, and cat with it
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise NotPossible(f"a network namespace cannot be made: {error}") from None
        self._holders.append(holder)
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != "ready\n":
            raise NotPossible(f"a network namespace cannot be made: {holder.stderr.read().strip()}")
        if number:
            self._inside.append(int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()))
        else:
            self._inside.append(holder.pid)

    def _wait_for_link(self, number: int) -> None:
        """MPICH looks once for networks that are up, and the link comes up a moment after it was told to."""
        deadline = time.monotonic() + 10
        while "state UP" not in _do(*self._enter(number), "ip", "link", "show", "dev", "link0"):
            if time.monotonic() > deadline:
                raise NotPossible(f"expected the link of node {number} to come up within 10 s")
            time.sleep(0.02)

    def _enter(self, number: int) -> list[str]:
        own = [*APART, *ONLY_SECOND] if number else APART
        return ["nsenter", f"--target={self._inside[number]}", *own, f"--wd={os.getcwd()}"]

    def _on(self, number: int, *command: str) -> None:
        _do(*self._enter(number), *command)

    def slow_down(self, rate: str, delay: str) -> str:
        """Make the link slow, in tc's units ("200mbit", "1ms"), and say what it is now.

        The delay is left out where the kernel cannot do it (netem), and only the rate is limited.
        """
        delayed = ["netem", "rate", rate, "delay", delay, "limit", "100000"]
        limited = ["tbf", "rate", rate, "burst", "64kb", "latency", "200ms"]
        for found, discipline in ((f"{rate}, {delay}", delayed), (f"{rate}, no delay (no netem here)", limited)):
            try:
                for number in range(len(ADDRESSES)):
                    self._on(number, "tc", "qdisc", "replace", "dev", "link0", "root", *discipline)
            except NotPossible as error:
                problem = error
            else:
                return found
        raise problem

    def command(self, mpi: Installation, ranks: int, script: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """What runs script on so many ranks of each node, and the environment for it."""
        whole = ranks * len(ADDRESSES)
        (launcher, *rest), settings = build_command(
            mpi, whole, script, python=sys.executable, env=os.environ, cores=len(usable_cores()), is_root=True
        )
        hosts = ",".join(f"{address}:{ranks}" for address in ADDRESSES)
        if mpi.kind == "openmpi":
            passed = ("PATH", "PYTHONPATH", *settings)  # the others would stay on the first node
            where = ["--prtemca", "plm_ssh_agent", str(self._agent), "--host", hosts]
            where += [option for name in passed for option in ("-x", name)]
        else:
            where = ["-launcher", "ssh", "-launcher-exec", str(self._agent), "-hosts", hosts]
        return [*self._enter(0), launcher, *where, *rest], {**os.environ, **settings}

    def close(self) -> None:
        """Take everything away."""
        for holder in self._holders:
            holder.communicate()
        self._holders.clear()
        self._folder.cleanup()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _do(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError as error:
        raise NotPossible(str(error)) from None
    if done.returncode:
        raise NotPossible(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
