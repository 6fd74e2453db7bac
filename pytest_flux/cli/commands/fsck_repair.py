"""The repairs of `flux fsck`: what is left of a damaged value goes below lost+found, what is lost is unlinked.

flux-core repairs behind the back of a KVS that must not run meanwhile. That of an embedded broker always runs:
here the repairs are one transaction, and a checkpoint.
"""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import CommandError
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.kvs_tree import walk
from pytest_flux.protocol.treeobj import DIR, DIRREF, decode_treeobj

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.archive_common import BlobClient
    from pytest_flux.protocol.kvs_tree import Found
    from pytest_flux.protocol.treeobj import TreeObject

LOST_AND_FOUND = "lost+found"
_NO_MERGE, _SYNC = 1, 4
_TREEOBJ = 16


class Repair:
    """Collects repairs. Raises CommandError where the store does not take them."""

    def __init__(self, client: BlobClient) -> None:
        self._client = client
        self._ops: list[dict[str, Any]] = []
        self.jobs: dict[str, None] = {}
        self.moved = 0
        self.unlinked = 0
        # From here on the newest checkpoint is what the KVS has now.
        self._commit([])

    def unlink(self, key: str) -> None:
        """A directory is gone."""
        self._op(key, None)
        self.unlinked += 1

    def move(self, key: str, found: Found) -> None:
        """Some blobs of a value are gone."""
        refs = [ref for ref, blob in zip(found.entry.data, found.blobs, strict=True) if isinstance(blob, bytes)]
        self._op(f"{LOST_AND_FOUND}.{key}", treeobj.valref(refs) if refs else treeobj.val(b""))
        self._op(key, None)
        self.moved += 1

    def move_job(self, key: str) -> None:
        """Some of a job is gone: all of it is to go where that went."""
        self.jobs[key] = None

    def commit(self) -> bool:
        """Do it all. Whether there was anything to do."""
        if not self._ops:
            return False
        self._commit(self._ops)
        jobs: list[dict[str, Any]] = []
        self._ops = jobs
        for key in self.jobs:
            self._move_directory(key)
        if jobs:
            self._commit(jobs)
        return True

    def _move_directory(self, key: str) -> None:
        request = {"key": key, "namespace": "primary", "flags": _TREEOBJ}
        try:
            entry = decode_treeobj(self._client.flux.rpc("kvs.lookup", request).get()["val"])
            if entry.type != DIRREF:
                return
            for found in walk(self._client.load, entry.data[0], load_values=lambda _: b""):
                if found.entry.type not in (DIR, DIRREF):
                    self._op(".".join((LOST_AND_FOUND, key, *found.path)), found.entry)
        except (FluxError, ProtocolError) as error:
            raise CommandError(f"cannot move {key}: {error}") from None
        self._op(key, None)

    def _op(self, key: str, entry: TreeObject | None) -> None:
        self._ops.append({"key": key, "flags": 0, "dirent": None if entry is None else entry.json()})

    def _commit(self, ops: list[dict[str, Any]]) -> None:
        request = {"namespace": "primary", "flags": _NO_MERGE | _SYNC, "ops": ops}
        try:
            self._client.flux.rpc("kvs.commit", request).get()
        except FluxError as error:
            raise CommandError(f"cannot repair: {error.text or os.strerror(error.errnum)}") from None
