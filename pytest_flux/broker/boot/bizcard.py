"""Business cards, which brokers exchange over PMI before they can connect: JSON of one line.

flux-core 0.88 writes ``{"host":NAME,"uri":[URI...],"pubkey":KEY?}``, as recorded. Brokers of this package have no
key, but add ``"machine"``: the machine that they really run on, whatever the host is named. Rank 0 adds ``"secret"``,
which only processes that the launcher has started can read: brokers prove with it to their parents that they are one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pytest_flux.broker.boot.pmi_client import BootError
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.hostlist import encode_hostlist
from pytest_flux.protocol.idset import encode_idset
from pytest_flux.protocol.json_value import compact_ascii
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# PMI servers spoil values on their way: Hydra and Slurm cut them at white space, Hydra of MPICH 5 drops the
# backslashes, with which JSON escapes. URIs hold paths, hence anything; such characters are written %XX.
_FRAGILE = re.compile(r"[^!#$&-\[\]-~]")
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")


class Bizcard(NamedTuple):
    """A broker's host name, the URIs at which it awaits its children, and perhaps key, machine and secret."""

    host: str
    uri: tuple[str, ...] = ()
    pubkey: str | None = None
    machine: str | None = None
    secret: str | None = None

    def find_uri(self, scheme: str = "") -> str | None:
        """The first URI that begins with ``scheme`` (such as ``ipc://``), if any."""
        return next((uri for uri in self.uri if uri.startswith(scheme)), None)

    def encode(self) -> str:
        """The card as JSON without white space. Raises ProtocolError for a URI without a scheme."""
        card: dict[str, Any] = {"host": self.host, "uri": list(self.uri)}
        if self.pubkey is not None:
            card["pubkey"] = self.pubkey
        if self.machine is not None:
            card["machine"] = self.machine
            card["uri"] = [_FRAGILE.sub(_escape, uri) for uri in self.uri]
        if self.secret is not None:
            card["secret"] = self.secret
        _check_uris(card["uri"])
        return compact_ascii(card)

    @classmethod
    def decode(cls, text: str) -> Bizcard:
        """Decode a card; unknown keys are ignored.

        Raises ProtocolError if it is not a JSON object, or lacks ``host`` or ``uri``, or one has the wrong type.
        """
        import json

        try:
            card = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("business card is not JSON", str(error)) from None
        if not isinstance(card, dict):
            raise ProtocolError("business card is not a JSON object", repr(text[:64]))
        uris = card.get("uri")
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            raise ProtocolError("business card without an array of URIs", repr(text[:64]))
        host, pubkey, machine, secret = (_string(card, key) for key in ("host", "pubkey", "machine", "secret"))
        if host is None:
            raise ProtocolError("business card without a host", repr(text[:64]))
        _check_uris(uris)
        if machine is not None:
            uris = [_ESCAPED.sub(_unescape, uri) for uri in uris]
        return cls(host, tuple(uris), pubkey, machine, secret)


def machine_identity() -> str:
    """A word that is the same for two processes if they run on one machine, and in one container of it."""
    # Containers share the boot_id of their machine, but neither a host name nor the directory of the sockets.
    # Cloned virtual machines may share host name and /etc/machine-id, but not the boot_id.
    try:
        # Bytes, because an encoding other than UTF-8 is a module to import, in each broker.
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read().strip().decode()
    except OSError:
        boot = "-"
    return f"{boot}@{os.uname().nodename}"


def _string(card: dict[str, Any], key: str) -> str | None:
    value = card.get(key)
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"business card whose {key} is not a string", repr(value)[:64])
    return value


def _check_uris(uris: list[str]) -> None:
    for uri in uris:
        if "://" not in uri:
            raise ProtocolError("business card with a URI without a scheme", repr(uri[:64]))


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(match[0]))


def _unescape(match: re.Match[str]) -> str:
    return os.fsdecode(bytes.fromhex(match[0].replace("%", "")))


def require_one_machine(cards: Sequence[Bizcard], method: str) -> None:
    """BootError unless all brokers, in the order of ranks, are on one host, as embedded brokers must be."""
    machines = [_machine(card, method) for card in cards]
    remote = [rank for rank, machine in enumerate(machines) if machine != machines[0]]
    if not remote:
        return
    subject = f"rank {remote[0]} runs" if len(remote) == 1 else f"ranks {encode_idset(remote)} run"
    hosts = encode_hostlist(dict.fromkeys(cards[rank].host for rank in remote))
    raise BootError(
        f"this embedded broker serves one host; {subject} on {hosts}: "
        "install flux-core for instances of several hosts"
    )


def _machine(card: Bizcard, method: str) -> str:
    if method != "config":
        return card.machine or card.host
    # A configured broker that is reached over a UNIX socket is on this host, whatever it is named.
    return "" if all(uri.startswith("ipc://") for uri in card.uri) else card.host
