"""Measures the CPU time of processes over an interval, and their share of memory."""

import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil
from tests.harness.installation import Installation

_PARENTS = ("supervisor", "load")  # of the others, which are named by themselves


@dataclass
class CpuMeter:
    """CPU seconds of named processes and their descendants since this object was made. This process is ``load``."""

    pids: Mapping[str, int]
    _before: dict[str, float] = field(init=False)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self.pids = {**self.pids, "load": os.getpid()}
        self._before, self._began = self._now(), time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """CPU seconds by name so far."""
        now = self._now()
        return {name: now[name] - self._before[name] for name in self.pids}

    def elapsed_s(self) -> float:
        """Wall clock so far."""
        return time.perf_counter() - self._began

    def _now(self) -> dict[str, float]:
        return {name: sum(_cpu_s(process) for process in _family(name, pid)) for name, pid in self.pids.items()}


def memory_mb(pids: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size by name, in MB of 10^6 bytes: a shared page is divided between its processes."""
    return {name: sum(_pss(process) for process in _family(name, pid)) / 1e6 for name, pid in pids.items()}


def worker_metrics(installation: Installation) -> dict[str, float]:
    """Metrics of all workers of ``installation``, added up, by name and labels as in ``/metrics``."""
    counted: dict[str, float] = defaultdict(float)
    for path in (installation.data_dir / "run").glob("ingest-worker*.sock"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n")
            answer = b"".join(iter(lambda connection=connection: connection.recv(1 << 16), b""))
        for line in answer.partition(b"\r\n\r\n")[2].decode().splitlines():
            if line.startswith("tracebility_"):
                name, value = line.rsplit(" ", 1)
                counted[name] += float(value)
    return dict(counted)


def _family(name: str, pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process] if name in _PARENTS else [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
