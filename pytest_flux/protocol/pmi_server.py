"""The server's side of the simple PMI-1 wire protocol (RFC 13, "Wire Protocol"), for all clients of one program.

Bytes of a client go in, events come out; the owner of the connections sends the replies. Commands, limits and codes
are those of flux-core's simple_server.c, which the recorded conversations show. In addition, clients that ask for PMI
1.2 get it: barriers of groups, with tags, and an optional kvsname. (MPICH 5 asks for 1.1 and gets that; it would use
more if it were offered.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pytest_flux.protocol import pmi
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

# flux start reports a client's fault in these words (recorded case pmi-garbage), after "channel_cb: ".
PROTOCOL_ERROR = "pmi_simple_server_request: Protocol error"

# A client of PMI 1.2 may wait in one barrier per thread. More than this only fills our memory.
GROUPS_MAX = 1024


class Reply(NamedTuple):
    """Send ``line``, with an LF (:func:`pytest_flux.protocol.pmi.encode_line`), to ``rank``."""

    rank: int
    line: str


class Abort(NamedTuple):
    """``rank`` asks that the whole program be killed."""

    rank: int
    code: int
    message: str


class Finalized(NamedTuple):
    """``rank`` is done: close its connection, after sending the reply that is among the events before this one."""

    rank: int


Event = Reply | Abort | Finalized


class ClientError(ProtocolError):
    """``rank`` broke the protocol. Carry out ``events`` first: its earlier input caused them."""

    def __init__(self, rank: int, events: list[Event], detail: str) -> None:
        super().__init__(PROTOCOL_ERROR, f"rank {rank}: {detail}")
        self.rank = rank
        self.events = events


class _Client:
    __slots__ = ("buffer", "fault", "finalized", "rank", "spawning", "subversion")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.buffer = pmi.LineBuffer()
        self.subversion = 1
        self.spawning = False
        self.finalized = False
        self.fault = ""


class PmiServer:
    """Serves a program of ``size`` ranks, ``local_size`` of them (by default all) connected here.

    ``kvs`` is open to callers, who may put keys before a client asks for them. ``trace`` gets each line of
    the conversation, in the form of ``flux start -vv``. ``kvsname`` is ``flux start``'s by default; MPICH names
    its shared memory after it, so two MPI programs of one name on one host break each other.
    """

    def __init__(
        self,
        size: int,
        *,
        local_size: int | None = None,
        kvsname: str = "-",
        appnum: int = 0,
        kvs: Mapping[str, str] | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.size = size
        self.kvs: dict[str, str] = dict(kvs or {})
        self._trace = trace
        self._clients: dict[int, _Client] = {}
        self._barriers = Barriers(size, size if local_size is None else local_size)
        self._events: list[Event] = []
        maxes = f"kvsname_max={pmi.KVSNAME_MAX} keylen_max={pmi.KEYLEN_MAX} vallen_max={pmi.VALLEN_MAX}"
        not_implemented = "rc=-1 msg=command not implemented"
        self._constant_replies = {
            "get_maxes": f"cmd=maxes rc=0 {maxes}",
            "get_universe_size": f"cmd=universe_size rc=0 size={size}",
            "get_appnum": f"cmd=appnum rc=0 appnum={appnum}",
            "get_my_kvsname": f"cmd=my_kvsname rc=0 kvsname={kvsname}",
            "publish_name": f"cmd=publish_result {not_implemented}",
            "unpublish_name": f"cmd=unpublish_result {not_implemented}",
            "lookup_name": f"cmd=lookup_result {not_implemented}",
        }

    def receive(self, rank: int, data: bytes) -> list[Event]:
        """The events that follow from ``data``, the next bytes of ``rank``, cut anywhere. After Finalized, none.

        Raises ClientError, a ProtocolError, if they break the protocol, and on each further call until
        :meth:`disconnect`; other clients are not affected. Raises ValueError for an unknown rank.
        """
        client = self._clients.get(rank) or self._connect(rank)
        if client.fault:
            raise ClientError(rank, [], client.fault)
        if client.finalized:
            return []
        events: list[Event] = []
        self._events = events
        line = ""
        try:
            for line in client.buffer.feed(data):
                if self._request(client, line):
                    return events
            if client.buffer.fault is not None:
                raise client.buffer.fault
        except ProtocolError as error:
            client.fault = str(error) if error.where else f"{error}: {line[:64]!r}"
            self._barriers.leave(rank)
            raise ClientError(rank, events, client.fault) from None
        return events

    def disconnect(self, rank: int) -> None:
        """Forget the unfinished line of ``rank``, and that it waits in a barrier: its connection is gone.

        Its next bytes come from a new process, which passes the barriers that are over.
        """
        if self._clients.pop(rank, None) is not None:
            self._barriers.leave(rank)

    def _connect(self, rank: int) -> _Client:
        if not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} in a PMI program of size {self.size}")
        self._barriers.join(rank)
        client = self._clients[rank] = _Client(rank)
        return client

    def _reply(self, rank: int, line: str) -> None:
        if self._trace is not None:
            self._trace(f"{rank}: S: {line}")
        self._events.append(Reply(rank, line))

    def _request(self, client: _Client, line: str) -> bool:
        """Carry out ``line``. Returns whether it was the client's last one."""
        if self._trace is not None:
            self._trace(f"{client.rank}: C: {line}")
        if client.spawning:
            # Only this line ends a spawn; its other lines describe the new program.
            if line == "endcmd":
                client.spawning = False
                self._reply(client.rank, "cmd=spawn_result rc=-1")
            return False
        name = pmi.command_of(line)
        reply = self._constant_replies.get(name)
        if reply is None:
            reply = _HANDLERS[name](self, client, line)
        if reply is not None:
            self._reply(client.rank, reply)
        if client.finalized:
            self._events.append(Finalized(client.rank))
        return client.finalized

    # Each of the following carries out one command, and returns the reply to its client, if it is known yet.

    def _init(self, client: _Client, line: str) -> str:
        version = pmi.unsigned_field(line, "pmi_version")
        subversion = pmi.unsigned_field(line, "pmi_subversion")
        if version is None or subversion is None:
            raise ProtocolError("PMI init without a version")
        if (version, subversion) < (1, 1) or version == 2:
            return "cmd=response_to_init rc=-1"
        client.subversion = 2 if version == 1 and subversion >= 2 else 1
        return f"cmd=response_to_init rc=0 pmi_version=1 pmi_subversion={client.subversion}"

    def _abort(self, client: _Client, line: str) -> None:
        # RFC 13 does not define its keys: MPICH sends exitcode and message, flux-core exitcode and error_msg, and in
        # one place exit_code. flux-core ignores message, although MPICH gives its reason there.
        code = pmi.unsigned_field(line, "exitcode")
        if code is None:
            code = pmi.unsigned_field(line, "exit_code")
        start = pmi.find_field(line, "error_msg")
        if start < 0:
            start = pmi.find_field(line, "message")
        message = line[start:] if start >= 0 and pmi.byte_length(line[start:]) < pmi.VALLEN_MAX else "aborted"
        self._events.append(Abort(client.rank, 1 if code is None else code, message))

    def _finalize(self, client: _Client, line: str) -> str:
        client.finalized = True
        self._barriers.leave(client.rank)
        return "cmd=finalize_ack rc=0"

    def _put(self, client: _Client, line: str) -> str:
        key, rc = _key(client, line)
        if rc == pmi.SUCCESS:
            start = pmi.mandatory_field(line, "value")
            if pmi.byte_length(line[start:]) >= pmi.VALLEN_MAX:
                rc = pmi.INVALID_VAL_LENGTH
            else:
                self.kvs[key] = pmi.string_at(line, start)
        return f"cmd=put_result rc={rc}"

    def _get(self, client: _Client, line: str) -> str:
        key, rc = _key(client, line)
        value = self.kvs.get(key) if rc == pmi.SUCCESS else None
        if value is None:
            return f"cmd=get_result rc={rc or pmi.INVALID_KEY}"
        return f"cmd=get_result rc=0 value={value}"

    def _barrier_in(self, client: _Client, line: str) -> None:
        start = pmi.find_field(line, "group") if client.subversion >= 2 else -1
        if start < 0:
            self._barrier_out(self._barriers.enter(client.rank), "0")
        else:
            name = pmi.word_at(line, start)
            self._barrier_out(self._barriers.enter_group(client.rank, name), name.partition(":")[2] or "0")

    def _barrier_out(self, ranks: Iterable[int], tag: str) -> None:
        for rank in ranks:
            # A threaded client of PMI 1.2 distinguishes its barriers by the tag, and relies on it.
            tagged = self._clients[rank].subversion >= 2
            self._reply(rank, f"cmd=barrier_out rc=0 tag={tag}" if tagged else "cmd=barrier_out rc=0")

    def _spawn(self, client: _Client, line: str) -> None:
        client.spawning = True


_HANDLERS: dict[str, Callable[[PmiServer, _Client, str], str | None]] = {
    "init": PmiServer._init,
    "abort": PmiServer._abort,
    "finalize": PmiServer._finalize,
    "put": PmiServer._put,
    "get": PmiServer._get,
    "barrier_in": PmiServer._barrier_in,
    "spawn": PmiServer._spawn,
}


def _key(client: _Client, line: str) -> tuple[str, int]:
    """The key of a put or get, and a return code. All kvsnames mean the same KVS."""
    find_kvsname = pmi.find_field if client.subversion >= 2 else pmi.mandatory_field
    start = find_kvsname(line, "kvsname")
    if start >= 0 and pmi.byte_length(pmi.word_at(line, start)) >= pmi.KVSNAME_MAX:
        return "", pmi.INVALID_LENGTH
    key = pmi.word_at(line, pmi.mandatory_field(line, "key"))
    return key, pmi.INVALID_KEY_LENGTH if pmi.byte_length(key) >= pmi.KEYLEN_MAX else pmi.SUCCESS


class Barriers:
    """The barriers of a program of ``size`` ranks, ``local_size`` of them clients of this server.

    There is one of all clients (RFC 13, "barrier_in"); PMI 1.2 adds those of groups. Each ``enter`` returns the ranks
    to release, in ascending order: none until the last one has come.
    """

    def __init__(self, size: int, local_size: int) -> None:
        self._size = size
        self._local_size = local_size
        self._present: set[int] = set()
        self._absent: set[int] = set()
        self._entered: dict[int, int] = {}
        self._entered_total = 0
        self._completed = 0
        self._to_repeat: dict[int, int] = {}
        self._groups: dict[str, _Group] = {}
        self._waiting_in: dict[int, int] = {}

    def join(self, rank: int) -> None:
        """Add ``rank``: from now on it is released from each barrier with the others.

        A rank that has left before is a process that was started again. It repeats the barriers that are over, which
        nobody else will enter again, so it passes those at once.
        """
        self._present.add(rank)
        if rank in self._absent and self._completed:
            self._to_repeat[rank] = self._completed

    def leave(self, rank: int) -> None:
        """Remove ``rank``: it no longer counts in any barrier."""
        self._present.discard(rank)
        self._absent.add(rank)
        self._entered_total -= self._entered.pop(rank, 0)
        self._to_repeat.pop(rank, None)
        if self._waiting_in.pop(rank, 0):
            for name, group in list(self._groups.items()):
                group.waiting.pop(rank, None)
                if not group.waiting:
                    del self._groups[name]

    def enter(self, rank: int) -> list[int]:
        """Let ``rank`` enter the barrier of all."""
        if self._to_repeat.get(rank, 0):
            self._to_repeat[rank] -= 1
            return [rank]
        # As in flux-core, this only counts lines: it does not matter whose they are, and a rank that never came is
        # released with the others.
        self._entered[rank] = self._entered.get(rank, 0) + 1
        self._entered_total += 1
        if self._entered_total < self._local_size:
            return []
        self._entered.clear()
        self._entered_total = 0
        self._completed += 1
        return sorted(self._present)

    def enter_group(self, rank: int, name: str) -> list[int]:
        """Let ``rank`` enter the barrier of the group ``name``, as the request has it.

        That is WORLD, NODE, or ranks separated by commas, then optionally ``:TAG``, a number. Raises ProtocolError if
        it is not, if ``rank`` is not in the group, or if it is in more than GROUPS_MAX barriers.
        """
        group = self._groups.get(name) or self._parse(name)
        if group.members is not None and rank not in group.members:
            raise ProtocolError("PMI barrier of a group by one who is not in it")
        if self._waiting_in.get(rank, 0) >= GROUPS_MAX:
            raise ProtocolError(f"PMI client in more than {GROUPS_MAX} barriers")
        self._groups[name] = group
        self._waiting_in[rank] = self._waiting_in.get(rank, 0) + 1
        released = group.enter(rank)
        for member in released:
            self._waiting_in[member] -= 1
        if not group.waiting:
            del self._groups[name]
        return released

    def _parse(self, name: str) -> _Group:
        ranks, colon, tag = name.partition(":")
        if colon and not _is_number(tag):
            raise ProtocolError("PMI barrier whose tag is not a number")
        # For Hydra a node is what one of its proxies serves; here it is what this server serves.
        if ranks in ("WORLD", "NODE"):
            return _Group(None, self._local_size)
        words = ranks.split(",")
        if not all(_is_number(word) and int(word) < self._size for word in words):
            raise ProtocolError("PMI barrier of a group that does not exist")
        members = frozenset(map(int, words))
        return _Group(members, len(members))


class _Group:
    """``members`` (None: anybody), and how often each waits. They are released once ``count`` have come."""

    __slots__ = ("_count", "members", "waiting")

    def __init__(self, members: frozenset[int] | None, count: int) -> None:
        self.members = members
        self._count = count
        self.waiting: dict[int, int] = {}

    def enter(self, rank: int) -> list[int]:
        self.waiting[rank] = self.waiting.get(rank, 0) + 1
        if len(self.waiting) < self._count:
            return []
        released = sorted(self.waiting)
        # A member that came twice, from two threads, already waits in the next round.
        self.waiting = {rank: times - 1 for rank, times in self.waiting.items() if times > 1}
        return released


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
