"""What outlives the brokers of an instance, in the statedir of rank 0: its content, and the KVS on that."""

from __future__ import annotations

import errno
import os

from pytest_flux.broker.boot.recovery import place
from pytest_flux.protocol.blobref import DIGEST_SIZES
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.broker.broker import Broker
    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.kvs import Kvs


class InstanceState:
    """Opened by whoever first needs it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._content: ContentStore | None = None
        self._kvs: Kvs | None = None

    def find(self) -> None:
        """Open at once what there is of an earlier instance.

        FluxError where it cannot be read: whoever restarts an instance wants to hear that before anything else.
        """
        broker, attributes = self._broker, self._broker.attributes
        if attributes.get("content.hash") not in DIGEST_SIZES:
            raise FluxError(errno.EINVAL, f"unknown content.hash: {attributes.get('content.hash')}")
        if broker.rank > 0:
            return
        if "content.restore" in attributes:
            from pytest_flux.broker.boot.recovery import restore

            restore(attributes, broker.log)
        if os.path.exists(f"{place(attributes)[0]}/content.sqlite"):
            self.kvs.namespaces()

    @property
    def content(self) -> ContentStore:
        """The blobs of the instance."""
        if self._content is None:
            from pytest_flux.broker.content.store import open_store

            self._content = open_store(self._broker)
        return self._content

    @property
    def kvs(self) -> Kvs:
        """The key-value store of the instance."""
        if self._kvs is None:
            from pytest_flux.broker.kvs import open_kvs

            self._kvs = open_kvs(self._broker)
        return self._kvs

    def resume_jobs(self) -> None:
        """An instance that comes again goes on with its jobs, whether or not anybody asks for them."""
        if self._kvs is not None and self._has_jobs(self._kvs):
            self._broker.router.rpc("job-manager.getinfo", None, lambda _: None)

    @staticmethod
    def _has_jobs(kvs: Kvs) -> bool:
        try:
            return bool(kvs.list("job"))
        except FluxError:
            # Whatever is there instead, or is lost, who asks for jobs is told.
            return False

    def close(self) -> None:
        """Dump it if that was asked for, unless it never came up; then write what is not on disk yet."""
        broker = self._broker
        is_end = broker.state_machine.state == "unload-builtins"
        if broker.rank == 0 and "content.dump" in broker.attributes and is_end:
            from pytest_flux.broker.dumping import dump

            is_dumped = dump(broker)
            broker.exit_code = broker.exit_code or int(not is_dumped)
        if self._kvs is not None and not self._kvs.close():
            broker.exit_code = broker.exit_code or 1
        if self._content is not None:
            self._content.close()
