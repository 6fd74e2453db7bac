"""The tree that the brokers of an instance are connected in."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import CommandError
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_flux.client import Flux


class Topology:
    """The part of the tree below one rank: who belongs to it, whether online or not."""

    __slots__ = ("children", "rank", "size")

    def __init__(self, rank: int, size: int, children: list[Topology]) -> None:
        self.rank = rank
        self.size = size
        self.children = children

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Topology:
        """From the answer of ``overlay.topology``."""
        return cls(int(value["rank"]), int(value["size"]), [cls.parse(child) for child in value["children"]])

    def __iter__(self) -> Iterator[Topology]:
        """This node, then those below it."""
        yield self
        for child in self.children:
            yield from child

    @property
    def ranks(self) -> set[int]:
        """Every rank of this part."""
        return {node.rank for node in self}

    def find(self, rank: int) -> Topology | None:
        """The part below another rank."""
        return next((node for node in self if node.rank == rank), None)

    def parent_of(self, rank: int) -> int | None:
        """The rank's parent, None for the root and for ranks that are not in this part."""
        return next((node.rank for node in self for child in node.children if child.rank == rank), None)


def fetch_topology(flux: Flux) -> Topology:
    """The whole tree. Raises CommandError."""
    try:
        return Topology.parse(flux.rpc("overlay.topology", {"rank": 0}, nodeid=0).get())
    except FluxError as error:
        raise CommandError(f"error fetching overlay topology: {os.strerror(error.errnum)}") from None
    except (KeyError, TypeError, ValueError):
        raise CommandError("error parsing topology") from None


def find_parent(flux: Flux, rank: int) -> int:
    """The parent of a rank. Raises CommandError for the root and for ranks outside of the instance."""
    topology = fetch_topology(flux)
    if not 0 <= rank < topology.size:
        raise CommandError(f"{rank} is not a valid rank in this instance")
    parent = topology.parent_of(rank)
    if parent is None:
        raise CommandError(f"{rank} has no parent")
    return parent
