"""The parts of a broker that are made on first use, and what each of them is given.

Most instances of a test suite live for a few milliseconds and run one job or none. So the KVS and the
job services are neither imported nor made before a request needs them. This module has a property for each such part,
which makes it from the parts that it uses, and a method for each service. The broker itself makes all other parts, at
once.

A module (see modules.py) that is loaded by request opens its part at once, so that the request fails if that fails;
a module that is removed drops its part.

Rank 0 has the content store, the KVS, the job manager with scheduler, executor and resources. Every rank has job
shells, and relays that pass requests on to rank 0.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from pytest_flux.broker.boot.recovery import is_recovery, place
from pytest_flux.broker.modules import MODULES, Arguments, ModuleConfig, Modules, decode_arguments
from pytest_flux.broker.service import LazyService
from pytest_flux.protocol.blobref import DIGEST_SIZES
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_DEBUG, LOG_ERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.enclosing import Enclosing
    from pytest_flux.broker.exec.job_exec import JobExec
    from pytest_flux.broker.exec.shells import Shells
    from pytest_flux.broker.jobs.manager import JobManager
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.resource.inventory import Inventory
    from pytest_flux.broker.resource.supply import Supply
    from pytest_flux.broker.router import Router
    from pytest_flux.broker.service import Service
    from pytest_flux.broker.services.groups import GroupsService
    from pytest_flux.broker.services.heartbeat import Heart
    from pytest_flux.reactor.reactor import Reactor

FIRST_BEAT = 2.0
"""Seconds after which an instance has a heartbeat without a request: most have ended by then."""


class Parts:
    """See the module. ``services`` stand in the router for those that are made when they are asked."""

    def __init__(
        self,
        reactor: Reactor,
        router: Router,
        attributes: Attributes,
        config: dict[str, Any],
        log: BrokerLog,
        groups: GroupsService,
        modules: Modules,
    ) -> None:
        self.modules = modules
        self._reactor = reactor
        self._router = router
        self._attributes = attributes
        self._config = config
        self._log = log
        self._groups = groups
        self._content: ContentStore | None = None
        self._kvs: Kvs | None = None
        self._enclosing: Enclosing | None = None
        self._inventory: Inventory | None = None
        self._shells: Shells | None = None
        self._executor: JobExec | None = None
        self._manager: JobManager | None = None
        self._supply: Supply | None = None
        self._heart: Heart | None = None
        self._is_played = False
        self._is_whole = True
        makers = self._makers_of_rank_0() if router.rank == 0 else self._makers_of_others()
        provider = {service: name for name, module in MODULES.items() for service in (name, *module.services)}
        self.services = [LazyService(name, router, make, provider.get(name)) for name, make in makers.items()]
        if router.rank == 0 and not modules.is_explicit:
            attributes.setdefault("content.backing-module", "content-sqlite")
        elif router.rank == 0:
            # Until the module content-sqlite is loaded.
            self.content.detach()

    def enable_services(self) -> None:
        """Put the services of loaded modules into the router."""
        for lazy in self.services:
            if lazy.module is None or lazy.module in self.modules:
                lazy.enable()

    def configure(self, config: dict[str, Any]) -> None:
        """Take over a new configuration, whose tables were checked, in the parts that are made already."""
        if self._manager is not None:
            self._manager.configure(config)
            self._configure_scheduler(self._manager)
        if self._inventory is not None:
            self._inventory.configure(config)
        if self._heart is not None:
            self._heart.configure(config)

    # -- parts of rank 0

    @property
    def content(self) -> ContentStore:
        """The blobs of the instance."""
        if self._content is None:
            from pytest_flux.broker.content.store import open_store

            content = open_store(self._reactor, self._attributes, self._log)
            content.use(self._sqlite_options({}))
            self._content = content
        return self._content

    def _sqlite_options(self, arguments: Arguments) -> Arguments:
        """The arguments of the module content-sqlite, with what its table in the configuration says besides."""
        table = self._config.get("content-sqlite", {})
        if not isinstance(table, dict):
            raise FluxError(errno.EINVAL, "[content-sqlite] is not a table")
        return {**{name.replace("max_", "max-"): str(value) for name, value in table.items()}, **arguments}

    @property
    def kvs(self) -> Kvs:
        """The key-value store of the instance."""
        if self._kvs is None:
            from pytest_flux.broker.kvs import open_kvs

            self._kvs = open_kvs(self._reactor, self.content, self._router, self._log, self._config)
        return self._kvs

    @property
    def enclosing(self) -> Enclosing | None:
        """The instance that this one is a job of, if it can be reached."""
        if self._enclosing is None:
            from pytest_flux.broker.enclosing import find_enclosing

            self._enclosing = find_enclosing(self._reactor, self._attributes, self._log)
        return self._enclosing

    @property
    def inventory(self) -> Inventory:
        """The resources of the instance."""
        if self._inventory is None:
            from pytest_flux.broker.resource.inventory import Inventory

            options = self.modules.arguments("resource")
            config = self._config
            if "noverify" in options:
                config = {**config, "resource": {**config.get("resource", {}), "noverify": True}}
            self._inventory = Inventory(
                self._router.size,
                self._attributes,
                config,
                self._log,
                self._reactor.clock,
                self._groups,
                self.kvs,
                self.enclosing,
                is_strict=not self.modules.is_implicit("resource"),
                force_up="monitor-force-up" in options,
                keeps_history="notruncate" in options,
            )
        return self._inventory

    @property
    def manager(self) -> JobManager:
        """The job manager, which does not run jobs yet. FluxError ENOSYS if its module is not loaded."""
        if self._manager is None and "job-manager" not in self.modules:
            raise FluxError(errno.ENOSYS, "the module job-manager is not loaded")
        if self._manager is None:
            from pytest_flux.broker.jobs.manager import JobManager
            from pytest_flux.broker.jobs.store import KvsClient

            self._manager = JobManager(
                self._reactor,
                self._router,
                self._log,
                self._config,
                KvsClient(self.kvs),
                is_recovery=is_recovery(self._attributes),
            )
        return self._manager

    @property
    def executor(self) -> JobExec:
        """What runs the job manager's jobs."""
        if self._executor is None:
            from pytest_flux.broker.exec.job_exec import JobExec

            config = self._exec_config
            self._executor = JobExec(
                self._reactor, self._router, self._attributes, config, self.kvs, self._groups, self.shells, self._log
            )
        return self._executor

    @property
    def _exec_config(self) -> Mapping[str, Any]:
        return ModuleConfig(self._config, "exec", self.modules.arguments("job-exec"))

    def run_jobs(self) -> JobManager:
        """The job manager, with an executor and with resources to schedule on, if their modules are loaded."""
        manager = self.manager
        self._connect()
        return manager

    def _connect(self) -> None:
        """Give the job manager what it lacks and there is."""
        manager = self._manager
        if manager is None or self._is_played:
            return
        if "job-exec" in self.modules and not manager.start.has_executor:
            manager.start.use(self.executor)
        if "sched-simple" in self.modules and "resource" in self.modules and self._supply is None:
            from pytest_flux.broker.resource.supply import Supply

            self._configure_scheduler(manager)
            self._supply = Supply(self.inventory, manager.alloc, manager.update.follow_instance)

    def _configure_scheduler(self, manager: JobManager) -> None:
        config: Mapping[str, Any] = self._config
        table = {**config.get("sched-simple", {}), **self.modules.arguments("sched-simple")}
        depth = str(table.get("queue-depth"))
        manager.scheduler.configure(table.get("queue-policy"), int(depth) if depth.isdecimal() else None)

    def _cut_supply(self) -> None:
        if self._supply is not None:
            self._supply.end()
            self._supply = None

    def play_jobs(self) -> JobManager:
        """The job manager for a caller that provides executor and resources in place of ours."""
        self._is_played = True
        return self.manager

    # -- parts of every rank

    @property
    def shells(self) -> Shells:
        """The job shells of this rank."""
        if self._shells is None:
            from pytest_flux.broker.exec.shells import Shells

            self._shells = Shells(self._reactor, self._router, self._attributes)
        return self._shells

    # -- life

    def find_state(self) -> None:
        """Open the state of an earlier instance, if there is one, or begin one that is to last, on rank 0.

        FluxError if it cannot be read: whoever restarts an instance must learn that first.
        """
        attributes = self._attributes
        if attributes.get("content.hash") not in DIGEST_SIZES:
            raise FluxError(errno.EINVAL, f"unknown content.hash: {attributes.get('content.hash')}")
        if self._router.rank > 0 or self.modules.is_explicit:
            return
        if "content.restore" in attributes:
            from pytest_flux.broker.boot.recovery import restore

            restore(attributes, self._log)
        directory, volatile = place(attributes)
        database = f"{directory}/content.sqlite"
        exists = os.path.exists(database)
        if exists and not os.path.getsize(database):
            # SQLite takes such a file for a new database.
            self._log.write(LOG_ERR, f"{database} is empty: what it held is lost")
        if "content-sqlite" in self._config:
            # A mistake in this table is one of the start.
            _ = self.content
        lasts = not volatile and bool(attributes.get("statedir"))
        if lasts:
            # As in flux-core, the file is there from the start: even an unused statedir can be recovered.
            _ = self.content.backing
        if exists or lasts:
            self.kvs.namespaces()

    def begin_to_run(self) -> None:
        """Let a restarted instance go on with its jobs, even if no client asks for them; let the heart beat."""
        if self._kvs is not None and "job-manager" in self.modules and self._has_jobs(self._kvs):
            self._router.rpc("job-manager.getinfo", None, lambda _: None)
        if self.modules.is_implicit("heartbeat") and self._router.rank == 0:
            if self._reactor.clock.is_virtual:
                # Whether there is a heartbeat must not depend on how fast this machine is.
                self._beat()
            else:
                self._reactor.call_later(FIRST_BEAT, self._beat)

    @staticmethod
    def _has_jobs(kvs: Kvs) -> bool:
        try:
            return bool(kvs.list("job"))
        except FluxError:
            # A client that asks for jobs gets the error.
            return False

    @property
    def is_busy(self) -> bool:
        """Whether processes of jobs run."""
        return self._executor is not None and self._executor.is_busy

    @property
    def is_settled(self) -> bool:
        """Whether no job is being started or killed."""
        return self._executor is None or self._executor.is_settled

    def settle(self, done: Callable[[], None]) -> None:
        """End the running jobs, because the instance is about to end; then call back."""
        if self._manager is None or self._manager.is_recovery or self.modules.is_explicit:
            # Where rc1 has loaded the job manager, it has also said what ends the jobs (phase "cleanup").
            done()
        else:
            self._manager.settle(done)

    def dump(self) -> None:
        """Write the configured dump, as the instance is about to end. Where rc1 has loaded modules, rc3 does this."""
        if self._router.rank > 0 or "content.dump" not in self._attributes or self.modules.is_explicit:
            return
        from pytest_flux.broker.dumping import dump

        if self._inventory is not None:
            self._inventory.save()
        self._is_whole = dump(lambda: self.kvs, self._attributes, self._log, self._reactor.clock)

    def close(self) -> bool:
        """Close everything. Returns whether nothing was lost, in the dump neither."""
        if self._shells is not None:
            self._shells.destroy()
        if self._inventory is not None:
            self._inventory.destroy()
        if self._heart is not None:
            self._heart.stop()
        if self._kvs is not None:
            self._is_whole = self._kvs.close() and self._is_whole
        if self._content is not None:
            self._content.close()
        return self._is_whole

    # -- modules

    def load(self, name: str, arguments: Sequence[object]) -> None:
        """Load a module. FluxError if it is loaded, has no such arguments, or its part cannot be opened."""
        decoded = decode_arguments(name, arguments)
        if self.modules.is_implicit(name):
            if not decoded:
                self.modules.keep(name)
                return
            self.remove(name)
        self.modules.add(name, decoded)
        try:
            self._open(name, decoded)
            for lazy in self.services:
                if lazy.module == name:
                    lazy.enable()
            self._connect()
        except FluxError:
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Remove a module. FluxError ENOENT if it is not loaded, EPERM if it cannot be removed."""
        self.modules.remove(name)
        for lazy in self.services:
            if lazy.module == name:
                lazy.disable()
        self._drop(name)

    def _open(self, name: str, arguments: Arguments) -> None:
        """Open the part of a module now, and not with the first request. FluxError if that fails."""
        if name == "heartbeat":
            self._beat()
        if self._router.rank > 0:
            return
        if name == "content":
            self.content.configure(arguments)
        elif name == "content-sqlite":
            self.content.attach(self._sqlite_options(arguments))
            backing = self.content.backing
            modes = f"journal_mode={backing.journal_mode} synchronous={backing.synchronous}"
            self._log.write(LOG_DEBUG, f"{backing.path} ({backing.count()} objects) {modes}", name)
            self._attributes.set("content.backing-module", name)
        elif name == "kvs":
            self.kvs.begin(arguments.get("initial-rootref"))
        elif name == "resource":
            _ = self.inventory
        elif name == "job-manager":
            _ = self.manager
        elif name == "job-exec":
            from pytest_flux.broker.services.job_exec import check_arguments

            check_arguments(arguments)
        elif name == "sched-simple":
            from pytest_flux.broker.services.sched import check_depth

            check_depth(arguments)

    def _drop(self, name: str) -> None:
        """Drop the part of a module."""
        if name == "heartbeat" and self._heart is not None:
            self._heart.stop()
            self._heart = None
        elif name == "content" and self._content is not None:
            self._content.forget()
        elif name == "content-sqlite" and self._router.rank == 0:
            self.content.detach()
        elif name == "kvs" and self._kvs is not None:
            self._kvs.end()
        elif name == "resource":
            self._cut_supply()
            if self._inventory is not None:
                self._inventory.destroy()
                self._inventory = None
        elif name == "job-manager":
            self._cut_supply()
            if self._manager is not None:
                self._manager.end()
            self._manager = self._executor = None
            self._renew("job-exec", "job-info", "job-ingest", "job-list", "sched-simple")
        elif name == "job-exec":
            if self._manager is not None:
                self._manager.start.stop()
            self._executor = None
        elif name == "sched-simple":
            self._cut_supply()

    def _renew(self, *names: str) -> None:
        for lazy in self.services:
            if lazy.module in names:
                lazy.renew()

    def _beat(self) -> None:
        _ = self.heart

    @property
    def heart(self) -> Heart:
        """What beats on rank 0 and listens on the others."""
        if self._heart is None:
            from pytest_flux.broker.services.heartbeat import Heart

            period = self.modules.arguments("heartbeat").get("period")
            self._heart = Heart(self._reactor, self._router, self._log, self._config, period)
        return self._heart

    # -- services

    def _makers_of_rank_0(self) -> dict[str, Callable[[], Service]]:
        return {
            "content": self._make_content,
            "content-backing": self._make_content_backing,
            "content-sqlite": self._make_content_sqlite,
            "cron": self._make_cron,
            "feasibility": self._make_feasibility,
            "heartbeat": self._make_heartbeat,
            "job-exec": self._make_job_exec,
            "job-info": self._make_job_info,
            "job-ingest": self._make_job_ingest,
            "job-list": self._make_job_list,
            "job-manager": self._make_job_manager,
            "job-shell": self._make_job_shell,
            "kvs": self._make_kvs,
            "kvs-watch": self._make_kvs_watch,
            "resource": self._make_resource,
            "sched": self._make_sched,
            "sched-simple": self._make_sched_simple,
        }

    def _makers_of_others(self) -> dict[str, Callable[[], Service]]:
        return {
            "content": self._make_remote_content,
            "heartbeat": self._make_heartbeat,
            "job-shell": self._make_job_shell,
            "kvs": self._make_kvs_relay,
            "kvs-watch": self._make_kvs_watch_relay,
        }

    def _make_content(self) -> Service:
        from pytest_flux.broker.services.content import ContentService

        return ContentService(self._router, self._log, self.content)

    def _make_content_backing(self) -> Service:
        from pytest_flux.broker.services.content import ContentBackingService

        return ContentBackingService(self._router, self._log, self.content)

    def _make_content_sqlite(self) -> Service:
        from pytest_flux.broker.services.content import ContentSqliteService

        return ContentSqliteService(self._router, self._log, self.content)

    def _make_remote_content(self) -> Service:
        from pytest_flux.broker.services.content import RemoteContentService

        return RemoteContentService(self._router, self._log, self._attributes)

    def _make_kvs(self) -> Service:
        from pytest_flux.broker.services.kvs import KvsService

        if self.modules.is_implicit("resource"):
            # The inventory writes resource.R, which clients may look for first of all.
            _ = self.inventory
        return KvsService(self._router, self._log, self.kvs)

    def _make_kvs_watch(self) -> Service:
        from pytest_flux.broker.services.kvs import KvsWatchService

        return KvsWatchService(self._router, self._log, self.kvs)

    def _make_kvs_relay(self) -> Service:
        from pytest_flux.broker.services.kvs import KvsRelayService

        return KvsRelayService(self._router, self._log)

    def _make_kvs_watch_relay(self) -> Service:
        from pytest_flux.broker.services.kvs import KvsWatchRelayService

        return KvsWatchRelayService(self._router, self._log)

    def _make_resource(self) -> Service:
        from pytest_flux.broker.services.resource import ResourceService

        return ResourceService(self._router, self._log, self.inventory)

    def _make_job_shell(self) -> Service:
        from pytest_flux.broker.services.job_exec import JobShellService

        return JobShellService(self._router, self._log, self.shells)

    def _make_job_exec(self) -> Service:
        from pytest_flux.broker.services.job_exec import JobExecService

        return JobExecService(self._router, self._log, self.executor, self._exec_config)

    def _make_job_manager(self) -> Service:
        from pytest_flux.broker.services.job_manager import JobManagerService

        return JobManagerService(self._router, self._log, self.run_jobs())

    def _make_job_ingest(self) -> Service:
        from pytest_flux.broker.services.job_ingest import JobIngestService

        return JobIngestService(self._router, self._log, self.run_jobs(), self._attributes)

    def _make_job_list(self) -> Service:
        from pytest_flux.broker.services.job_list import JobListService

        return JobListService(self._router, self._log, self.run_jobs())

    def _make_job_info(self) -> Service:
        from pytest_flux.broker.services.job_info import JobInfoService

        return JobInfoService(self._router, self._log, self.run_jobs(), self.kvs)

    def _make_sched(self) -> Service:
        from pytest_flux.broker.services.sched import SchedService

        return SchedService(self._router, self._log, self.run_jobs().alloc)

    def _make_cron(self) -> Service:
        from pytest_flux.broker.services.cron import SYNC, CronService

        arguments = SYNC if self.modules.is_implicit("cron") else self.modules.arguments("cron")
        return CronService(self._router, self._log, self._reactor, arguments)

    def _make_sched_simple(self) -> Service:
        from pytest_flux.broker.services.sched import SchedSimpleService

        return SchedSimpleService(self._router, self._log, self.run_jobs().alloc)

    def _make_heartbeat(self) -> Service:
        from pytest_flux.broker.services.heartbeat import HeartbeatService

        return HeartbeatService(self._router, self._log, self.heart)

    def _make_feasibility(self) -> Service:
        from pytest_flux.broker.services.sched import FeasibilityService

        return FeasibilityService(self._router, self._log, self.run_jobs().scheduler)


def preload() -> None:
    """Import what the parts of rank 0 need, in the process from which brokers are forked. ImportError."""
    import pytest_flux.broker.exec.job_exec
    import pytest_flux.broker.jobs.manager
    import pytest_flux.broker.resource.supply
    import pytest_flux.broker.services.content
    import pytest_flux.broker.services.job_exec
    import pytest_flux.broker.services.job_info
    import pytest_flux.broker.services.job_ingest
    import pytest_flux.broker.services.job_list
    import pytest_flux.broker.services.job_manager
    import pytest_flux.broker.services.kvs
    import pytest_flux.broker.services.resource
    import pytest_flux.broker.services.sched  # noqa: F401
