"""Limits on what comes from outside, checked before anything is expanded.

Most numbers in Flux's protocols are short texts that stand for much: ``0-1048575`` is a set of a million ids, and
``{"total": 4611686018427387904}`` a job with that many tasks. Whoever reads such a number compares it with the limit
here and computes with it; nothing is expanded that exceeds the limit. Each limit has one meaning and one name. They
are far above what the machines of today need, and low enough that one message costs a broker some milliseconds and
some megabytes.

What a broker holds for its clients is limited as well: requests, subscriptions, and bytes that nobody reads.

flux-core has few of these limits: it expands, and trusts its users. The error names value and limit.
"""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError

MAX_IDS = 1 << 20
"""Ids in one set of ids, once it is expanded."""

MAX_HOSTS = 1 << 20
"""Names in one list of hosts, once it is expanded: flux-core's limit for a range."""

MAX_NODES = 1 << 17
"""Ranks in a resource set, and hosts in a ``[resource.config]``. With that many, an instance needs 100 MB."""

MAX_CORES = 1 << 16
"""Ids of a node's cores, and of its gpus, must be smaller."""

MAX_RESOURCE_BITS = 1 << 26
"""Sum over all ranks of a resource set: the largest id of a core or gpu."""

MAX_RESOURCE_DEPTH = 16
"""Levels of resources in a jobspec. flux-core's scheduler has such a limit, its validator does not."""

MAX_TREE_DEPTH = 200
"""Levels of directories in the key-value store. Deeper ones can only come from damage or malice."""

MAX_TASKS = 1 << 14
"""Tasks of one job. They all run on this machine."""

MAX_DEPENDENCIES = 2048
"""Dependencies of one job."""

MAX_CONSTRAINT_DEPTH = 32
"""Levels of operators in a constraint."""

MAX_CONSTRAINT_TERMS = 256
"""Operators in a constraint, each of which is evaluated for each node or job."""

MAX_CONSTRAINT_VALUES = 1 << 13
"""Properties, hosts and ranges in all terms of a constraint. A range counts once, however many names it has."""

MAX_PARENTHESES = 100
"""Levels of parentheses in the text form of a constraint."""

MAX_TEMPLATE = 1 << 20
"""Characters of a template (``{{id}}``) once its tags are filled in."""

MAX_FIELD_WIDTH = 1 << 16
"""Width and precision of a field in an output format."""


# -- what a broker holds for those that are connected to it

UNREAD_IN_MEMORY = 2 << 20
"""Bytes that a peer leaves unread from which on the rest waits in a file."""

UNREAD_OF_CLIENT = 1 << 30
"""Bytes that one client may leave unread. It is cut off when it leaves more."""

UNREAD_OF_CLIENTS = 2 << 30
"""Bytes that all clients of a broker together may leave unread. The one that leaves most is cut off."""

UNREAD_OF_PEER = 1 << 40
"""Bytes that a neighbour may leave unread: no link is cut for being slow, only a full disk does that."""

UNFINISHED_OF_CLIENTS = 320 << 20
"""Bytes of unfinished messages of all clients. The client with the longest is cut off when there are more.

One message of the greatest length (framing.MAX_MESSAGE) fits, and some smaller ones.
"""

OPEN_REQUESTS_OF_CLIENT = 1 << 16
"""Requests of one client that may wait for their answers. Further ones are refused."""

SUBSCRIPTIONS_OF_CLIENT = 1 << 12
"""Topics that one client may subscribe to. Further ones are refused."""


def check_limit(what: str, value: int, limit: int) -> None:
    """Raise ProtocolError, which names value and limit, if the value exceeds the limit."""
    if value > limit:
        raise ProtocolError(f"{what}: {_short(value)} exceeds the limit of {limit}")


def _short(value: int) -> str:
    """The digits of a number, or the number of its bits if those are very many."""
    return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"


class Budget:
    """Counts one kind of thing in all parts of a message together, against one limit."""

    __slots__ = ("_limit", "_what", "spent")

    def __init__(self, what: str, limit: int) -> None:
        self.spent = 0
        self._what = what
        self._limit = limit

    def spend(self, count: int = 1) -> None:
        """Add to the count. Raises ProtocolError, which names count and limit, if it exceeds the limit."""
        self.spent += count
        check_limit(self._what, self.spent, self._limit)
