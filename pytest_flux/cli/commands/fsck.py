"""`flux fsck`: whether all blobs are there that the key-value store refers to."""

from __future__ import annotations

import errno
import os
import re
import sys
import time

from pytest_flux.cli.commands.archive_common import BlobClient
from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.cli.commands.fsck_repair import Repair
from pytest_flux.options import Option
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import VALREF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options
    from pytest_flux.protocol.kvs_tree import Found

OPTIONS = (
    Option("verbose", "v", usage="List keys as they are looked at"),
    Option("quiet", "q", usage="Print what is wrong, and no more"),
    Option("rootref", "r", "BLOBREF", usage="Begin with this root"),
    Option("repair", "R", usage="Move what is left of damaged values to lost+found"),
    Option("job-aware", "j", usage="Move all of a job to lost+found if any of it is damaged"),
)

_JOB = re.compile(r"job(\.[0-9a-fA-F]{4}){4}")


class Check:
    """One run. What it says goes to stderr, with the command's name in front unless that is a terminal."""

    def __init__(self, client: BlobClient, options: Options, context: Context) -> None:
        self._client = client
        self._context = context
        self._verbose = options.has("verbose")
        self._quiet = options.has("quiet")
        self._job_aware = options.has("job-aware")
        self._repair = Repair(client) if options.has("repair") else None
        self.errors = 0

    def run(self, root: str) -> None:
        """Walk from a root."""
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
        # What cannot be read now may be readable another time.
        if self._repair is not None and all(error.errnum == errno.ENOENT for _, error in errors):
            self._repair.move(key, found)
            self.warn(f"{key} repaired and moved to lost+found")
            if self._job_aware and (job := _JOB.match(key)):
                self._repair.move_job(job[0])

    def finish(self) -> None:
        """Do the repairs, and say what there was."""
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
        """What --quiet silences."""
        if not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line."""
        if sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
        else:
            self._context.log(text)


def run(options: Options, context: Context) -> int:
    """Check the newest checkpoint, or another root."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        client = BlobClient(flux, bypass=True)
        check = Check(client, options, context)
        ref = options.get("rootref")
        if ref is None:
            ref = _newest(client)
        try:
            decode_blobref(ref)
        except ProtocolError:
            raise CommandError("invalid blobref specified") from None
        check.run(ref)
        check.finish()
    return 1 if check.errors else 0


def _newest(client: BlobClient) -> str:
    try:
        checkpoint = client.checkpoints()[0]
        ref, timestamp = str(checkpoint["rootref"]), float(checkpoint.get("timestamp", 0))
    except FluxError as error:
        raise CommandError(f"error fetching checkpoints: {error.text or os.strerror(error.errnum)}") from None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise CommandError(f"error fetching checkpoints: {os.strerror(errno.EPROTO)}") from None
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(timestamp))
    print(f"Checking integrity of checkpoint from {moment}", flush=True)
    return ref


COMMAND = Command("flux fsck", run, summary="Find what is missing in the content store", options=OPTIONS)
