"""What `flux dump`, `flux restore` and `flux fsck` share."""

from __future__ import annotations

import errno
import os
import sys

from pytest_flux.cli.commands.command import CommandError
from pytest_flux.protocol.blobref import decode_blobref, encode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import NODEID_ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_flux.client import Flux
    from pytest_flux.options import Options


class BlobClient:
    """Blobs by their references. ``bypass`` goes to the backing store of rank 0, past the caches in front of it."""

    def __init__(self, flux: Flux, *, bypass: bool) -> None:
        self.flux = flux
        self._service, self._nodeid = ("content-backing", 0) if bypass else ("content", NODEID_ANY)
        self._hash = "sha1"

    def load(self, ref: str) -> bytes:
        """A blob. Raises FluxError."""
        try:
            digest = decode_blobref(ref)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return self.flux.rpc(f"{self._service}.load", digest, nodeid=self._nodeid).get_bytes()

    def learn_hash(self) -> None:
        """Ask which hash the instance uses."""
        self._hash = self.flux.getattr("content.hash")

    def store(self, blob: bytes) -> str:
        """Keep a blob; its reference. Raises FluxError."""
        digest = self.flux.rpc(f"{self._service}.store", blob, nodeid=self._nodeid).get_bytes()
        return encode_blobref(self._hash, digest)

    def checkpoints(self) -> list[Any]:
        """The checkpoints, newest first. Raises FluxError."""
        found = self.flux.rpc(f"{self._service}.checkpoint-get", nodeid=0).get().get("value")
        return found if isinstance(found, list) else [found]

    def put_checkpoint(self, ref: str, sequence: int, timestamp: float) -> None:
        """Have the KVS begin with this root next time. Raises FluxError."""
        value = {"version": 1, "rootref": ref, "sequence": sequence, "timestamp": timestamp}
        self.flux.rpc(f"{self._service}.checkpoint-put", {"value": value}, nodeid=0).get()


def choose_checkpoint(client: BlobClient) -> tuple[str, float]:
    """Root and time of the newest checkpoint. Raises CommandError."""
    try:
        value = client.checkpoints()[0]
        return str(value["rootref"]), float(value.get("timestamp", 0))
    except FluxError as error:
        reason = error.text or os.strerror(error.errnum)
    except (LookupError, TypeError, ValueError, AttributeError):
        reason = os.strerror(errno.EPROTO)
    raise CommandError(f"error fetching checkpoints: {reason}")


def root_of_kvs(flux: Flux) -> str:
    """The root of the namespace that commands use. Raises CommandError."""
    namespace = os.environ.get("FLUX_KVS_NAMESPACE") or "primary"
    try:
        return str(flux.rpc("kvs.getroot", {"namespace": namespace, "flags": 0}).get()["rootref"])
    except FluxError as error:
        text = error.text or os.strerror(error.errnum)
        raise CommandError(f"error fetching current KVS root: {text}") from None


def is_kvs_running(flux: Flux) -> bool:
    """Whether there is a KVS, which would not see what is done behind its back."""
    try:
        flux.rpc("kvs.getroot", {"namespace": "primary", "flags": 0}).get()
    except FluxError as error:
        return error.errnum != errno.ENOSYS
    return True


class Progress:
    """Tells how far it is: often at first, then every hundred keys. ``program`` has archived or restored."""

    def __init__(self, flux: Flux, options: Options, program: str, done: str) -> None:
        self._flux = flux
        self._program = program
        self._done = done
        self.verbose = options.has("verbose")
        self.shown = not self.verbose and not options.has("quiet")
        self._notifies = options.has("sd-notify")

    def key(self, name: str, count: int, text: str) -> None:
        """One more key is done, ``count`` in all."""
        if self.verbose:
            sys.stderr.write(f"{name}\n")
        if count % 100 == 0 or count < 10:
            self._tell(text, count)

    def end(self, text: str) -> None:
        """All are done."""
        if self.shown:
            sys.stderr.write(f"\r{self._program}: {text}\n")

    def note(self, line: str) -> None:
        """A line of its own."""
        sys.stderr.write(f"\r{line}\n" if self.shown else f"{line}\n")

    def _tell(self, text: str, count: int) -> None:
        if self.shown:
            sys.stderr.write(f"\r{self._program}: {text}")
            sys.stderr.flush()
        if self._notifies:
            status = f"{self._program}(1) has {self._done} {count} keys"
            self._flux.post("state-machine.sd-notify", {"status": status})
