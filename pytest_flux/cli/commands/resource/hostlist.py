"""`flux hostlist`: combine lists of hosts (RFC 29) of the instance, of jobs, or as written."""

from __future__ import annotations

import errno
import os
import sys
from itertools import groupby

from pytest_flux.cli.arguments import ArgumentCommand, connect
from pytest_flux.cli.command import CommandError
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.fluid import parse_fluid
from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.command import Context
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

OPTIONS = (
    Option("expand", "e", usage="Print the names one by one"),
    Option("delimiter", "d", "S", usage="What stands between these names (default: a space)"),
    Option("count", "c", usage="Print the number of hosts"),
    Option("nth", "n", "[-]IDS", usage="Take the hosts at these indices; -IDS counts from the end"),
    Option("find", "F", "HOSTS", usage="Print the indices of hosts"),
    Option("limit", "L", "N", usage="Take the first N hosts; -N: the last"),
    Option("sort", "S", usage="Sort the hosts"),
    Option("exclude", "x", "HOSTS|IDS", usage="Leave out hosts, by name or by index"),
    Option("union", "u", usage="Sort the hosts, and take each once"),
    Option("unique", usage="Do the same as --union"),
    Option("intersect", "i", usage="Take the hosts that all sources have"),
    Option("minus", "m", usage="Take the hosts of the first source without those of the others"),
    Option("xor", "X", usage="Take the hosts that an odd number of sources have"),
    Option("fallback", "f", usage="Take a job id that is not found for the name of a host"),
    Option("local", "l", usage="Read the hosts of the job or instance instead of stdin, without SOURCES"),
    Option("quiet", "q", usage="Print nothing; the exit code is 1 if there is no host"),
)
_EXCLUSIVE = (("expand", "count"), ("intersect", "minus", "xor"))


class _Sources:
    """Reads lists of hosts, and connects to the instance when the first of them needs it."""

    def __init__(self, *, fallback: bool) -> None:
        self._fallback = fallback
        self._flux: Flux | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._flux is not None:
            self._flux.close()

    @property
    def flux(self) -> Flux:
        """The instance."""
        if self._flux is None:
            self._flux = connect()
        return self._flux

    def read(self, source: str) -> list[str]:
        """Return the hosts of a source. Raises CommandError."""
        if source == "instance":
            return decode_hostlist(self.flux.getattr("hostlist"))
        if source == "local":
            job = os.environ.get("FLUX_JOB_ID")
            return self.read("instance") if job is None else self._of_job(job)
        if source in ("avail", "available"):
            return self._available()
        if source in ("stdin", "-"):
            return [host for line in sys.stdin for host in decode_hostlist(line.strip())]
        try:
            return self._of_job(source)
        except ProtocolError:
            pass
        try:
            return decode_hostlist(source)
        except ProtocolError:
            raise CommandError(f"Invalid jobid or hostlist {source}") from None

    def _of_job(self, text: str) -> list[str]:
        """Return the hosts of a job. Raises ProtocolError if the text is not a job id."""
        job_id = parse_fluid(text)
        try:
            job = self.flux.rpc("job-list.list-id", {"id": job_id, "attrs": ["nodelist"]}).get()["job"]
        except FluxError as error:
            if error.errnum != errno.ENOENT:
                raise CommandError(f"job {text}: {error.text or error.strerror}") from None
            if not self._fallback:
                raise CommandError(f"job {text} not found") from None
            return decode_hostlist(text)
        return decode_hostlist(job.get("nodelist", ""))

    def _available(self) -> list[str]:
        status = self.flux.rpc("resource.status").get()
        gone = {rank for name in ("offline", "exclude") for rank in decode_idset(status[name])}
        gone |= {rank for ranks in status["drain"] for rank in decode_idset(ranks)}
        return [host for rank, host in enumerate(self.read("local")) if rank not in gone]


def _without(hosts: list[str], others: list[str]) -> list[str]:
    """Remove the first occurrence of each of the others."""
    left = list(hosts)
    for host in others:
        if host in left:
            left.remove(host)
    return left


def _once(hosts: list[str]) -> list[str]:
    return [host for host, _ in groupby(sorted(hosts, key=_key))]


def _key(host: str) -> tuple[str, int, int]:
    prefix = host.rstrip("0123456789")
    digits = host[len(prefix) :]
    return prefix, int(digits or -1), len(digits)


def _combined(lists: list[list[str]], options: Options) -> list[str]:
    first, *others = lists
    for other in others:
        known = set(other)
        if options.has("intersect"):
            first = _once([host for host in first if host in known])
        elif options.has("minus"):
            first = _without(first, other)
        elif options.has("xor"):
            mine = set(first)
            first = _once(
                [host for host in first if host not in known] + [host for host in other if host not in mine]
            )
        else:
            first = first + other
    return first


def _excluded(hosts: list[str], text: str) -> list[str]:
    try:
        unwanted = set(decode_hostlist(text))
    except ProtocolError:
        raise CommandError(f"Invalid hostlist {text}") from None
    left = [host for host in hosts if host not in unwanted]
    if len(left) < len(hosts):
        return left
    try:
        indices = set(decode_idset(text))
    except ProtocolError:
        return hosts
    return [host for index, host in enumerate(hosts) if index not in indices]


def _nth(hosts: list[str], text: str) -> list[str]:
    from_end = text.startswith("-")
    try:
        indices = decode_idset(text.removeprefix("-"))
    except ProtocolError:
        raise CommandError(f"IDset(): Invalid argument: {text.removeprefix('-')}") from None
    if from_end:
        indices = [len(hosts) - index for index in reversed(indices)]
    if any(not 0 <= index < len(hosts) for index in indices):
        raise CommandError("Hostlist index out of range")
    return [hosts[index] for index in indices]


def _indices(hosts: list[str], text: str) -> str:
    found = []
    for host in decode_hostlist(text):
        if host not in hosts:
            raise CommandError(f"host '{host}' not found")
        found.append(str(hosts.index(host)))
    return " ".join(found)


def hostlist(options: Options, context: Context) -> int:
    """Print the hosts."""
    for names in _EXCLUSIVE:
        chosen = [
            f"-{option.key}/--{option.name}"
            for option in OPTIONS
            if option.name in names and options.has(option.name)
        ]
        if len(chosen) > 1:
            raise context.command.parser().usage_error(f"argument {chosen[1]}: not allowed with argument {chosen[0]}")
    sources = _Sources(fallback=options.has("fallback"))
    try:
        default = "local" if options.has("local") else "stdin"
        hosts = _combined([sources.read(source) for source in options.arguments or [default]], options)
    finally:
        sources.close()
    if (text := options.get("exclude")) is not None:
        hosts = _excluded(hosts, text)
    if options.has("sort"):
        hosts.sort(key=_key)
    if options.has("union") or options.has("unique"):
        hosts = _once(hosts)
    if limit := options.integer("limit", 0):
        hosts = hosts[:limit] if limit > 0 else hosts[limit:]
    if (text := options.get("nth")) is not None:
        hosts = _nth(hosts, text)
    line = _line(hosts, options)
    if options.has("quiet"):
        return 0 if hosts else 1
    if line is not None:
        print(line)
    return 0


def _line(hosts: list[str], options: Options) -> str | None:
    """Return the line to print; None to print nothing."""
    if (text := options.get("find")) is not None:
        return _indices(hosts, text)
    if options.has("count"):
        return str(len(hosts))
    if not hosts:
        return None
    if options.has("expand"):
        return (options.get("delimiter", " ") or "").replace("\\n", "\n").join(hosts)
    return encode_hostlist(hosts)


COMMANDS = (
    ArgumentCommand(
        "flux-hostlist",
        hostlist,
        usage="[OPTIONS] [SOURCES ...]",
        summary="Combine lists of hosts: instance, local, avail, stdin (-), the id of a job, or a list of hosts",
        options=OPTIONS,
    ),
)
