"""Discovers the resources of this machine: usable cores, memory, gpus."""

from __future__ import annotations

import functools
import glob
import os

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_idset

_CPUS = "/sys/devices/system/cpu"
_CGROUP = "/sys/fs/cgroup"


def allowed_cpus() -> frozenset[int]:
    """Return the processors that this process may use, cgroup cpusets applied."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return frozenset(range(os.cpu_count() or 1))


@functools.cache
def cores() -> tuple[frozenset[int], ...]:
    """Return the usable cores, each as the set of its processors, in flux-core's order.

    That is hwloc's: by package, and packages by their first processor.
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
    """Return how many cores a broker offers: those of its affinity, at most the quota of its cgroup."""
    quota = _cgroup_quota()
    count = len(cores())
    return min(count, max(1, int(quota))) if quota else count


def _cgroup_quota() -> float:
    """Return the cgroup's quota in processors, 0 if there is none."""
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
    """Return our cgroup (version 2) and those that contain it, innermost first."""
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
    """Return the usable memory in bytes: the machine's, or less if a cgroup limits it."""
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
    """Return the number of gpus that drivers show."""
    nvidia = len(glob.glob("/proc/driver/nvidia/gpus/*")) or len(glob.glob("/dev/nvidia[0-9]*"))
    return nvidia + _rocm_count()


def _rocm_count() -> int:
    """Return the number of AMD nodes with compute units: gpus, not processors."""
    count = 0
    for path in glob.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                properties = dict(line.split()[:2] for line in file if len(line.split()) >= 2)
        except OSError:
            continue
        count += int(properties.get("simd_count", "0")) > 0
    return count
