"""Modules: which of the services of this broker are loaded, and with which arguments.

flux-core's broker has few services of its own. All others are modules: libraries that scripts (rc1) load into it with
`flux module load` and that rc3 removes. Here they are built in. Most instances of a test suite never load anything,
and want everything to be there at once. But scripts and tests written for flux-core load, reload and remove modules,
and rely on what follows: a service answers after its module is loaded, not before, and ENOSYS afterwards.

Three ways were open: accept such requests without effect (then a test that removes the scheduler to make jobs wait
waits for nothing); load real libraries (they need flux-core's broker); or keep a set of names, and let services come
and go with them. This is the third way:

* An instance without ``broker.rc1_path`` begins with all modules loaded: they are *implicit*. A request to load one
  that is implicit succeeds; its arguments apply.
* An instance that was started with ``broker.rc1_path``, even an empty one, begins without modules, as in flux-core.
  Its scripts, or nobody, load them. What is not removed at the end was not shut down properly (exit code 1). In
  recovery mode rc1 may fail, and people look at the state nevertheless: then all modules are implicit.
* The services of a module that is not loaded are not in the router. Nothing else in the broker knows about modules,
  except the parts that hold state: :class:`~pytest_flux.broker.parts.Parts` makes and drops those.

What must stay true: the names, arguments and errors are flux-core's. A module that flux-core has and this table has
not is refused with a reason, never accepted without effect.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence

from pytest_flux.protocol.errors import FluxError
from pytest_flux.record import NamedTuple


class Module(NamedTuple):
    """A module of flux-core that is built in here.

    ``services`` are those of rank 0 that it provides besides the one of its name. ``options`` are the names of its
    arguments: with "=" at the end if a value follows.
    """

    services: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    only_rank_0: bool = False


_SCHEDULER = ("mode=", "queue-depth=", "log-level=", "queue-policy=")
_JOB_EXEC = (
    "job-shell=",
    "imp=",
    "service=",
    "method=",
    "shell-exit-timeout=",
    "kill-timeout=",
    "kill-signal=",
    "term-signal=",
    "max-kill-count=",
    "max-kill-timeout=",
)

MODULES = {
    "heartbeat": Module(options=("period=",)),
    "content": Module(
        options=("purge-target-size=", "purge-old-entry=", "flush-batch-limit=", "blob-size-limit="),
    ),
    "content-sqlite": Module(
        ("content-backing",), ("journal_mode=", "synchronous=", "max-checkpoints=", "truncate"), only_rank_0=True
    ),
    "kvs": Module(options=("initial-rootref=",)),
    "kvs-watch": Module(),
    "resource": Module(options=("monitor-force-up", "noverify", "notruncate")),
    "job-manager": Module(only_rank_0=True),
    "job-info": Module(),
    "job-list": Module(only_rank_0=True),
    "job-ingest": Module(
        options=(
            "validator-args=",
            "validator-plugins=",
            "disable-validator",
            "batch-count=",
            "buffer-size=",
            "max-fluid-generator-id=",
            "allow-root-jobs",
        ),
    ),
    "job-exec": Module(options=_JOB_EXEC, only_rank_0=True),
    "cron": Module(options=("sync=", "sync_epsilon="), only_rank_0=True),
    "sched-simple": Module(("sched", "feasibility"), _SCHEDULER, only_rank_0=True),
}
"""In the order in which flux-core's rc1 loads them (etc/modprobe/modprobe.toml)."""

BUILTINS = ("config", "connector-local", "groups", "rexec", "overlay")
"""The modules that flux-core's broker loads by itself (modhash.c)."""

Arguments = dict[str, str]
"""Names without "=", and values; the value of a flag is empty."""


def decode_arguments(name: str, arguments: Sequence[object]) -> Arguments:
    """Check the arguments of a module for their names. FluxError EINVAL."""
    decoded: Arguments = {}
    for argument in arguments:
        key, equals, value = str(argument).partition("=")
        if key + equals not in MODULES[name].options:
            raise FluxError(errno.EINVAL, f"{name}: unknown option: {argument}")
        decoded[key] = value
    return decoded


class ModuleConfig(Mapping[str, object]):
    """The configuration as a module sees it whose arguments say more than its table."""

    def __init__(self, config: Mapping[str, object], table: str, arguments: Arguments) -> None:
        self._config = config
        self._table = table
        self._arguments = arguments

    def __getitem__(self, name: str) -> object:
        if name != self._table or not self._arguments:
            return self._config[name]
        table = self._config.get(name, {})
        return {**table, **self._arguments} if isinstance(table, dict) else table

    def __iter__(self) -> Iterator[str]:
        return iter({**self._config, self._table: None} if self._arguments else self._config)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Modules:
    """The modules that are loaded here, with their arguments.

    ``is_explicit`` and ``has_rc3`` say that whoever started the broker chose its scripts rc1 and rc3.
    """

    def __init__(self, rank: int, *, is_explicit: bool = False, has_rc3: bool = False) -> None:
        self.is_explicit = is_explicit
        self._has_rc3 = has_rc3
        self._loaded: dict[str, Arguments] = {}
        self._implicit: set[str] = set()
        if not self.is_explicit:
            self._implicit = {name for name, module in MODULES.items() if rank == 0 or not module.only_rank_0}
            self._loaded = {name: {} for name in MODULES if name in self._implicit}

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    def names(self) -> list[str]:
        """The names of the loaded modules, those first that were loaded first."""
        return list(self._loaded)

    def arguments(self, name: str) -> Arguments:
        """The arguments of a module; empty if it is not loaded."""
        return self._loaded.get(name, {})

    def is_implicit(self, name: str) -> bool:
        """Whether a module is loaded although nobody has asked for it."""
        return name in self._implicit

    def keep(self, name: str) -> None:
        """Somebody has asked for an implicit module: from now on it is loaded like others."""
        self._implicit.discard(name)

    def add(self, name: str, arguments: Arguments) -> None:
        """Note that a module is loaded. FluxError EEXIST if it was."""
        if name in self._loaded:
            raise FluxError(errno.EEXIST)
        self._loaded[name] = arguments

    def remove(self, name: str) -> None:
        """Note that a module is loaded no longer. FluxError ENOENT, or EPERM for what cannot be removed."""
        if name in BUILTINS:
            raise FluxError(errno.EPERM)
        if name not in self._loaded:
            raise FluxError(errno.ENOENT)
        del self._loaded[name]
        self._implicit.discard(name)

    def left_behind(self) -> list[str]:
        """Modules that scripts have loaded and not removed, as the broker ends."""
        return self.names() if self.is_explicit and self._has_rc3 else []
