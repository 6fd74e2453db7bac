"""The hosts of ranks, and the ranks of hosts, of one instance."""

from __future__ import annotations

from pytest_flux.protocol.hostlist import decode_hostlist, encode_hostlist
from pytest_flux.protocol.idset import decode_idset, encode_idset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.handle import Flux


class HostMap:
    """The attribute ``hostlist``: the host of each rank, in order. Hosts may repeat."""

    __slots__ = ("hosts",)

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts

    @classmethod
    def of(cls, flux: Flux) -> HostMap:
        """Ask the instance. Raises FluxError, ProtocolError."""
        return cls(decode_hostlist(flux.getattr("hostlist")))

    def host_of(self, rank: int) -> str | None:
        """The host of ``rank``, None if the instance does not have that rank."""
        return self.hosts[rank] if 0 <= rank < len(self.hosts) else None

    def rank_of(self, host: str) -> int | None:
        """The lowest rank on ``host``, None if no rank is there."""
        return self.hosts.index(host) if host in self.hosts else None

    def lookup(self, target: str) -> str:
        """A set of ranks as list of hosts, or a list of hosts as set of ranks.

        Raises LookupError, in flux-core's words, for any other text, and for ranks and hosts that the instance lacks.
        """
        try:
            ranks = decode_idset(target)
        except ValueError:
            return encode_idset(self.ranks_of(target))
        hosts = []
        for rank in ranks:
            host = self.host_of(rank)
            if host is None:
                raise LookupError(f"rank {rank} is not in host map")
            hosts.append(host)
        return encode_hostlist(hosts)

    def ranks_of(self, target: str) -> list[int]:
        """The ranks that a list of hosts stands for. Raises LookupError as :meth:`lookup`."""
        try:
            hosts = decode_hostlist(target)
        except ValueError:
            raise LookupError("target must be a valid idset or hostlist") from None
        ranks = []
        for host in hosts:
            rank = self.rank_of(host)
            if rank is None:
                raise LookupError(f"host {host} not found in host map")
            ranks.append(rank)
        return ranks
