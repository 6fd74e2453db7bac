"""What this machine has: cores that we may use, memory, gpus."""

from __future__ import annotations

import functools
import glob
import os

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_idset

_CPUS = "/sys/devices/system/cpu"
_CGROUP = "/sys/fs/cgroup"


def allowed_cpus() -> frozenset[int]:
    """The processors that this process may run on; cgroup cpusets show in this, too."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return frozenset(range(os.cpu_count() or 1))


@functools.cache
def cores() -> tuple[frozenset[int], ...]:
    """The cores, each as its processors, numbered as flux-core numbers them: in order, those we may use.

    As hwloc does, cores are ordered by package, and packages by their first processor.
    """
    allowed = allowed_cpus()
    found: dict[frozenset[int], int] = {}
    for cpu in sorted(allowed):
        siblings = _idset_file(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list", [cpu])
        package = _idset_file(f"{_CPUS}/cpu{cpu}/topology/package_cpus_list", [0])
        found.setdefault(frozenset(siblings) & allowed, min(package, default=0))
    return tuple(sorted(found, key=lambda core: (found[core], min(core))))


def _idset_file(path: str, default: list[int]) -> list[int]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return decode_idset(file.read().strip()) or default
    except (OSError, ProtocolError):
        return default


def core_count() -> int:
    """How many cores a broker offers: those of its affinity, but no more than its cgroup pays for."""
    quota = _cgroup_quota()
    count = len(cores())
    return min(count, max(1, int(quota))) if quota else count


def _cgroup_quota() -> float:
    """Processors' worth of time that the cgroup may use, 0 for any."""
    for directory in _cgroup_directories():
        try:
            with open(f"{directory}/cpu.max", encoding="ascii") as file:
                quota, period = file.read().split()[:2]
            if quota != "max":
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return 0.0


def _cgroup_directories() -> list[str]:
    """Our cgroup (version 2) and those around it, innermost first."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            paths = [line.strip()[3:] for line in file if line.startswith("0::")]
    except OSError:
        return []
    directories = []
    path = paths[0] if paths else "/"
    while True:
        directories.append(_CGROUP + path.rstrip("/"))
        if path in ("/", ""):
            return directories
        path = os.path.dirname(path)


def memory() -> int:
    """Bytes of memory that we may use: the machine's, or what the cgroup leaves of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for directory in _cgroup_directories():
        try:
            with open(f"{directory}/memory.max", encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue
    return total


def gpu_count() -> int:
    """How many gpus the drivers show."""
    nvidia = len(glob.glob("/proc/driver/nvidia/gpus/*")) or len(glob.glob("/dev/nvidia[0-9]*"))
    return nvidia + _rocm_count()


def _rocm_count() -> int:
    """AMD's nodes that have compute units, which its processors have not."""
    count = 0
    for path in glob.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                properties = dict(line.split()[:2] for line in file if len(line.split()) >= 2)
        except OSError:
            continue
        count += int(properties.get("simd_count", "0")) > 0
    return count
