"""Commits and lookups per second through one connection: ours, and Flux's Python binding on either kind of broker.

Run as ``python -m benchmarks.kvs [--system PATH-OF-FLUX] [--count N]``. Each commit sets one small value and is
waited for; each lookup reads one. The figure for appending is of a value that grows by pieces of 4 KiB, of 10 and of
20 MB: twice the length must take about twice the time. The figures for directories are of one put into a directory
that has many keys, at its end (names that ascend) and anywhere; those for values, of one large value that is put and
got.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from pytest_flux.broker import kvs as broker
from pytest_flux.broker.content.store import ContentStore
from pytest_flux.client import Flux
from pytest_flux.client.kvs import Kvs
from pytest_flux.reactor.reactor import Reactor

_PIECE = b"x" * 4096
_PUTS = 20

# Run by the Python that Flux was built for.
_BINDING = """
import sys, time
import flux, flux.kvs
handle, count = flux.Flux(), int(sys.argv[1])
began = time.perf_counter()
for number in range(count):
    flux.kvs.put(handle, "bench.key", number)
    flux.kvs.commit(handle)
between = time.perf_counter()
for number in range(count):
    flux.kvs.get(handle, "bench.key")
print(count / (between - began), count / (time.perf_counter() - between))
"""


def own_rates(count: int) -> tuple[float, float]:
    """Commits and lookups per second of our client, on the instance that we are in."""
    with Flux() as flux:
        kvs = Kvs(flux)
        began = time.perf_counter()
        for number in range(count):
            kvs.put("bench.key", str(number))
        between = time.perf_counter()
        for _ in range(count):
            kvs.get("bench.key")
        return count / (between - began), count / (time.perf_counter() - between)


def append_seconds(size: int) -> float:
    """Seconds in which the broker's own services append ``size`` bytes to one value, a piece in each round."""
    reactor = Reactor()
    left = size // len(_PIECE)

    def step() -> None:
        nonlocal left
        left -= 1
        kvs.append("output", _PIECE)
        if left:
            reactor.call_soon(step)
        else:
            kvs.settle()
            reactor.stop()

    with tempfile.TemporaryDirectory() as directory:
        content = ContentStore(reactor, directory, "sha1", volatile=False, complain=print)
        kvs = broker.Kvs(reactor, content, publish=lambda topic, payload: None, complain=print)
        began = time.perf_counter()
        reactor.call_soon(step)
        reactor.run()
        kvs.close()
        content.close()
        seconds = time.perf_counter() - began
    reactor.close()
    return seconds


def put_milliseconds(size: int) -> tuple[float, float]:
    """Milliseconds of one put into a directory of ``size`` keys: of a last name, and of any name."""
    reactor = Reactor()
    with tempfile.TemporaryDirectory() as directory:
        content = ContentStore(reactor, directory, "sha1", volatile=False, complain=print)
        kvs = broker.Kvs(reactor, content, publish=lambda topic, payload: None, complain=print)
        kvs.commit([broker.put_op(f"d.key-{number:07d}", f"value {number}") for number in range(size)])
        kvs.settle()

        def measure(name: Callable[[int], int]) -> float:
            began = time.process_time()
            for number in range(_PUTS):
                kvs.put(f"d.key-{name(number):07d}", f"new {number}")
                kvs.settle()
            return (time.process_time() - began) / _PUTS * 1000

        figures = measure(lambda number: size + number), measure(lambda number: number * 7919 * 31 % size)
        kvs.close()
        content.close()
    reactor.close()
    return figures


def value_seconds(size: int) -> tuple[float, float]:
    """Seconds in which our client puts and gets a value of ``size`` bytes, on the instance that we are in."""
    value = os.urandom(size)
    with Flux() as flux:
        kvs = Kvs(flux)
        began = time.perf_counter()
        kvs.put("bench.large", value)
        between = time.perf_counter()
        kvs.get("bench.large")
        return between - began, time.perf_counter() - between


def in_instance(start: list[str], program: list[str]) -> list[float]:
    """The figures that a program prints in a new instance."""
    done = subprocess.run([*start, *program], stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return [float(word) for word in done.stdout.split()]


def main() -> int:
    """Print the table; 1 if the embedded broker is slower than the real one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default=os.environ.get("PYTEST_FLUX_SYSTEM") or shutil.which("flux"))
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(*own_rates(arguments.count), *value_seconds(16 << 20), *value_seconds(64 << 20))
        return 0
    count = str(arguments.count)
    start = [os.path.join(os.path.dirname(sys.executable), "flux-start"), "--broker=embedded", "-s1"]
    own = [sys.executable, "-m", "benchmarks.kvs", "--inside", "--count", count]
    commits, lookups, *values = in_instance(start, own)
    shorter, longer = (min(append_seconds(size) for _ in range(3)) for size in (10_000_000, 20_000_000))
    print(f"{'':<32}{'commits/s':>10} {'lookups/s':>10}")
    print(f"{'our client, embedded':<32}{commits:>10.0f} {lookups:>10.0f}")
    print(f"appended 10 MB in {shorter:.2f} s, 20 MB in {longer:.2f} s: ratio {longer / shorter:.2f}, budget 2.2")
    for size in (1_000, 10_000, 100_000):
        last, anywhere = put_milliseconds(size)
        print(f"one put into {size} keys: at the end {last:.1f} ms, anywhere {anywhere:.1f} ms (CPU)")
    for megabytes, put, get in zip((16, 64), values[::2], values[1::2], strict=True):
        print(f"value of {megabytes} MB: put {put:.2f} s, got {get:.2f} s")
    status = int(longer / shorter > 2.2)
    if arguments.system is None:
        return status
    binding = [arguments.system, "python", "-c", _BINDING, count]
    theirs = in_instance([arguments.system, "start"], binding)
    both = in_instance(start, binding)
    print(f"{'Python binding, embedded':<32}{both[0]:>10.0f} {both[1]:>10.0f}")
    print(f"{'Python binding, real':<32}{theirs[0]:>10.0f} {theirs[1]:>10.0f}")
    return status or int(commits < theirs[0] or lookups < theirs[1])


if __name__ == "__main__":
    sys.exit(main())
