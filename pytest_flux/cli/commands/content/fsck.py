"""`flux fsck`: check that the content store has all blobs that the key-value store refers to."""

from __future__ import annotations

import errno
import os
import re
import sys
import time

from pytest_flux.cli.command import Command, CommandError, Context, explaining
from pytest_flux.cli.commands.content.content import BlobClient, choose_checkpoint
from pytest_flux.options import Option
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.kvs_tree import walk
from pytest_flux.protocol.treeobj import DIR, DIRREF, VALREF, decode_treeobj

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.cli.commands.content.content import BlobClient
    from pytest_flux.options import Options
    from pytest_flux.protocol.kvs_tree import Found
    from pytest_flux.protocol.treeobj import TreeObject

LOST_AND_FOUND = "lost+found"
_NO_MERGE, _SYNC = 1, 4
_TREEOBJ = 16


class Repair:
    """Collects repairs. Raises CommandError if the store refuses them."""

    def __init__(self, client: BlobClient) -> None:
        self._client = client
        self._ops: list[dict[str, Any]] = []
        self.jobs: dict[str, None] = {}
        self.moved = 0
        self.unlinked = 0
        # This makes the present root of the KVS the newest checkpoint.
        self._commit([])

    def unlink(self, key: str) -> None:
        """Unlink a directory that is lost."""
        self._op(key, None)
        self.unlinked += 1

    def move(self, key: str, found: Found) -> None:
        """Move a value that has lost some blobs."""
        refs = [ref for ref, blob in zip(found.entry.data, found.blobs, strict=True) if isinstance(blob, bytes)]
        self._op(f"{LOST_AND_FOUND}.{key}", treeobj.valref(refs) if refs else treeobj.val(b""))
        self._op(key, None)
        self.moved += 1

    def move_job(self, key: str) -> None:
        """Move the whole directory of a job that has lost some blobs."""
        self.jobs[key] = None

    def commit(self) -> bool:
        """Commit the repairs. Return whether there were any."""
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
        with explaining("cannot repair"):
            self._client.flux.rpc("kvs.commit", request).get()


OPTIONS = (
    Option("verbose", "v", usage="List keys as they are looked at"),
    Option("quiet", "q", usage="Print what is wrong, and no more"),
    Option("rootref", "r", "BLOBREF", usage="Begin with this root"),
    Option("repair", "R", usage="Move what is left of damaged values to lost+found"),
    Option("job-aware", "j", usage="Move all of a job to lost+found if any of it is damaged"),
)

_JOB = re.compile(r"job(\.[0-9a-fA-F]{4}){4}")


class Check:
    """One run of the check. Messages go to stderr, after the command's name unless stderr is a terminal."""

    def __init__(self, client: BlobClient, options: Options, context: Context) -> None:
        self._client = client
        self._context = context
        self._verbose = options.has("verbose")
        self._quiet = options.has("quiet")
        self._job_aware = options.has("job-aware")
        self._repair = Repair(client) if options.has("repair") else None
        self.errors = 0

    def run(self, root: str) -> None:
        """Check everything below a root."""
        from pytest_flux.protocol.kvs_tree import walk

        def visit(path: tuple[str, ...]) -> None:
            if self._verbose:
                self.warn(".".join(path))

        try:
            for found in walk(self._client.load, root, load_values=self._validate, visit=visit):
                if found.problem:
                    self._bad_directory(found)
                elif found.entry.type == VALREF:
                    self._look_at_value(found)
        except FluxError as error:
            self._error(f"cannot load root tree object: {os.strerror(error.errnum)}")
        except ProtocolError as error:
            self._error(f"cannot load root tree object: {error}")

    def _validate(self, ref: str) -> bytes:
        self._client.flux.rpc("content-backing.validate", decode_blobref(ref), nodeid=0).get_bytes()
        return b""

    def _bad_directory(self, found: Found) -> None:
        key = ".".join(found.path)
        if not found.errnum:
            self._error(f"{key}: {found.problem}")
        elif found.errnum != errno.ENOENT:
            self._error(f"{key}: error retrieving dirref blobref: {os.strerror(found.errnum)}")
        else:
            self._error(f"{key}: missing dirref blobref")
            if self._repair is not None:
                self._repair.unlink(key)
                self.warn(f"{key} unlinked due to missing blobref")

    def _look_at_value(self, found: Found) -> None:
        key = ".".join(found.path)
        errors = [(index, blob) for index, blob in enumerate(found.blobs) if isinstance(blob, FluxError)]
        if not errors:
            return
        for index, error in errors if self._verbose else ():
            if error.errnum == errno.ENOENT:
                self.say(f"{key}: missing blobref index={index}")
            else:
                self.say(f"{key}: error retrieving blobref index={index}: {os.strerror(error.errnum)}")
        if not self._verbose:
            last = errors[-1][1].errnum
            missing = last == errno.ENOENT
            self.say(
                f"{key}: missing blobref(s)"
                if missing
                else f"{key}: error retrieving blobref(s): {os.strerror(last)}"
            )
        self.errors += 1
        # Blobs that cannot be read now may be readable later.
        if self._repair is not None and all(error.errnum == errno.ENOENT for _, error in errors):
            self._repair.move(key, found)
            self.warn(f"{key} repaired and moved to lost+found")
            if self._job_aware and (job := _JOB.match(key)):
                self._repair.move_job(job[0])

    def finish(self) -> None:
        """Commit the repairs, and print a summary."""
        if self._verbose or self.errors:
            self.say(f"Total errors: {self.errors}")
        if self._repair is None:
            return
        for job in self._repair.jobs if self._verbose else ():
            from pytest_flux.protocol.fluid import encode_fluid, parse_fluid

            self.warn(f"job {encode_fluid(parse_fluid(job), 'f58plain')} moved to lost+found")
        if self._repair.commit():
            self.warn("Updated primary checkpoint to include lost+found")
        if self._repair.moved or self._verbose:
            self.say(f"Total repairs: {self._repair.moved}")
        if self._repair.unlinked or self._verbose:
            self.say(f"Total unlinked directories: {self._repair.unlinked}")

    def _error(self, text: str) -> None:
        self.say(text)
        self.errors += 1

    def warn(self, text: str) -> None:
        """Write a line, unless --quiet is given."""
        if not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Write a line."""
        if sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
        else:
            self._context.log(text)


def fsck(options: Options, context: Context) -> int:
    """Check the newest checkpoint, or the root that is given."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        client = BlobClient(flux, bypass=True)
        check = Check(client, options, context)
        ref = options.get("rootref")
        if ref is None:
            ref, timestamp = choose_checkpoint(client)
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(timestamp))
            print(f"Checking integrity of checkpoint from {moment}", flush=True)
        try:
            decode_blobref(ref)
        except ProtocolError:
            raise CommandError("invalid blobref specified") from None
        check.run(ref)
        check.finish()
    return 1 if check.errors else 0


COMMANDS = (Command("flux fsck", fsck, summary="Find what is missing in the content store", options=OPTIONS),)
