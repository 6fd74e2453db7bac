"""Limits of what others may make us hold, each with one meaning. Errors name the limit and the value.

flux-core has no such limits: there a client that does not read, or asks without end, makes its broker grow.
"""

from __future__ import annotations

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
