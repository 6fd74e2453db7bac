"""`kvs` and `kvs-watch`: the key-value store by request (flux-core's modules/kvs and modules/kvs-watch).

Rank 0 has the store; the other ranks relay.
"""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.flow import WIDE, Flow
from pytest_flux.broker.kvs.lookup import Credentials, Lookup
from pytest_flux.broker.kvs.namespace import Waiter
from pytest_flux.broker.kvs.transaction import SYNC, Op, Transaction, decode_op
from pytest_flux.broker.kvs.watch import Watch, check_flags
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import FLAG_UPSTREAM, USERID_UNKNOWN, Message
from pytest_flux.protocol.treeobj import DIR, DIRREF, VAL, TreeObject, decode_treeobj

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router

# Methods that a service answers itself, on every rank.
_OWN = frozenset(("ping", "rusage", "debug", "config-reload", "stats-clear"))


def credentials_of(request: Request) -> Credentials:
    """Who asks."""
    return Credentials(request.message.userid, request.message.rolemask)


def encode_value(value: TreeObject) -> bytes:
    """The payload ``{val: tree object}``."""
    return b'{"val":%b}\0' % value.encode()


class KvsService(Service):
    """On rank 0."""

    name = "kvs"

    def __init__(self, router: Router, log: BrokerLog, kvs: Kvs) -> None:
        super().__init__(router, log)
        self._kvs = kvs
        self._names = itertools.count()
        self._waiters: dict[Request, tuple[str, Waiter]] = {}

    # -- reading

    @method("lookup", roles=ALL)
    def lookup(self, request: Request) -> bytes:
        """``{key, flags, namespace?, rootdir?, rootseq?}`` → ``{val}``."""
        value, _, _ = self._look_up(request)
        if value is None:
            raise FluxError(errno.ENOENT)
        return encode_value(value)

    @method("lookup-plus", roles=ALL)
    def lookup_plus(self, request: Request) -> Answer | bytes:
        """The same → ``{val, rootseq, rootref}``, or ``{errno, rootseq, rootref}`` if there is nothing."""
        value, sequence, ref = self._look_up(request)
        if value is None:
            return {"errno": errno.ENOENT, "rootseq": sequence, "rootref": ref}
        return b'{"val":%b,"rootseq":%d,"rootref":"%b"}\0' % (value.encode(), sequence, ref.encode())

    def _look_up(self, request: Request) -> tuple[TreeObject | None, int, str]:
        key, flags = request.field("key", str), request.field("flags", int)
        name = request.field("namespace", str, None)
        rootdir = request.json().get("rootdir")
        sequence = request.field("rootseq", int, -1)
        credentials = credentials_of(request)
        if rootdir is not None:
            ref = _root_of(rootdir)
        elif name is None:
            raise ProtocolError("neither 'namespace' nor 'rootdir'", request.topic)
        else:
            self._kvs.settle()
            namespace = self._kvs.namespace(name, credentials)
            ref, sequence = namespace.ref, namespace.sequence
        return self._where(ref, credentials).find(key, flags), sequence, ref

    def _where(self, ref: str, credentials: Credentials) -> Lookup:
        return self._kvs.lookup_in(ref, credentials)

    @method("getroot", roles=ALL)
    def getroot(self, request: Request) -> Answer:
        """``{namespace}`` → ``{owner, rootseq, rootref, flags, namespace}``."""
        name = request.field("namespace", str)
        self._kvs.settle()
        namespace = self._kvs.namespace(name, credentials_of(request))
        # The client may look below this root when it is an old one.
        self._kvs.content.keep_held()
        return {
            "owner": namespace.owner,
            "rootseq": namespace.sequence,
            "rootref": namespace.ref,
            "flags": namespace.flags,
            "namespace": name,
        }

    @method("wait-version", roles=ALL)
    def wait_version(self, request: Request) -> Answer | _Later:
        """``{rootseq, namespace}`` → ``{rootseq, rootref}``, once the namespace has that version."""
        sequence, name = request.field("rootseq", int), request.field("namespace", str)
        namespace = self._kvs.namespace(name, credentials_of(request))

        def done(error: FluxError | None) -> None:
            self._waiters.pop(request, None)
            self.release(request)
            if error is not None:
                request.error(error.errnum, error.text)
            else:
                request.respond({"rootseq": namespace.sequence, "rootref": namespace.ref})

        if namespace.sequence >= sequence:
            done(None)
            return LATER
        waiter = Waiter(sequence, done)
        namespace.waiters[waiter] = None
        self._waiters[request] = name, waiter
        return self.hold(request)

    def abandoned(self, request: Request) -> None:
        """Forget who waits for a version."""
        name, waiter = self._waiters.pop(request)
        self._kvs.namespace(name).waiters.pop(waiter, None)

    # -- writing

    @method("commit", roles=ALL)
    def commit(self, request: Request) -> _Later:
        """``{namespace, flags, ops: [{key, flags, dirent}]}`` → ``{rootref, rootseq}``."""
        name, flags = request.field("namespace", str), request.field("flags", int)
        values = request.json().get("ops")
        if values is None:
            raise ProtocolError("'ops' is missing", request.topic)
        # As in flux-core, anything but a list counts as an empty list.
        ops = [decode_op(value) for value in values] if isinstance(values, list) else []
        if not request.is_owner:
            for op in ops:
                _check_guest(op)
        self._kvs.namespace(name, credentials_of(request))
        if not flags & SYNC:
            # flux-core accepts commits that it may never be able to write. A commit with SYNC tries to write, now.
            self._kvs.content.check()

        def done(error: FluxError | None, ref: str, sequence: int) -> None:
            if error is not None:
                request.error(error.errnum, error.text)
            else:
                request.respond(b'{"rootref":"%b","rootseq":%d}\0' % (ref.encode(), sequence))

        transaction = Transaction(f"transaction_req.{self.router.rank}.{next(self._names)}", ops, flags, done)
        self._kvs.submit(name, transaction)
        return LATER

    # -- namespaces

    @method("namespace-create")
    def namespace_create(self, request: Request) -> Answer:
        """``{namespace, rootref, owner, flags}`` → empty. The owner may be unknown: then it is the instance's."""
        name, rootref = request.field("namespace", str), request.field("rootref", str)
        owner, flags = request.field("owner", int), request.field("flags", int)
        unknown = owner in (-1, USERID_UNKNOWN)
        self._kvs.create_namespace(name, owner=None if unknown else owner, rootref=rootref, flags=flags)
        return None

    @method("namespace-remove")
    def namespace_remove(self, request: Request) -> Answer:
        """``{namespace}`` → empty."""
        self._kvs.remove_namespace(request.field("namespace", str))
        return None

    @method("namespace-list", roles=ALL)
    def namespace_list(self, request: Request) -> Answer:
        """→ ``{namespaces: [{namespace, owner, flags}]}``."""
        found = self._kvs.namespaces()
        return {"namespaces": [{"namespace": each.name, "owner": each.owner, "flags": each.flags} for each in found]}

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ numbers, in flux-core's places; zero for those without a meaning here."""
        none: dict[str, Any] = {"count": 0, "min": 0, "mean": 0.0, "stddev": 0.0, "max": 0}
        content = self._kvs.content
        return {
            "cache": {
                "obj size total (MiB)": (content.clean.size + content.dirty_bytes) / (1 << 20),
                "obj size (KiB)": {**none, "count": len(content.clean) + len(content.dirty)},
                "#obj dirty": 0,
                "#obj incomplete": 0,
                "#faults": self._kvs.tree.faults,
            },
            "namespace": {
                each.name: {
                    "#versionwaiters": len(each.waiters),
                    "#no-op stores": 0,
                    "#transactions": len(each.queue),
                    "#readytransactions": len(each.queue),
                    "store revision": each.sequence,
                }
                for each in self._kvs.namespaces()
            },
            "transaction-opcount": {"commit": self._kvs.counts.json()},
            "pending_requests": len(self.held),
        }


def _root_of(rootdir: object) -> str:
    try:
        entry = decode_treeobj(rootdir)
    except ProtocolError as error:
        raise FluxError(errno.EINVAL, str(error)) from None
    if entry.type != DIRREF:
        raise FluxError(errno.EINVAL)
    ref: str = entry.data[0]
    return ref


def _check_guest(op: Op) -> None:
    """Guests may store values, but not references, which may lead to data of others."""
    entry = op.entry
    if entry is None or entry.type == VAL or (entry.type == DIR and not entry.data):
        return
    what = "non-empty dir" if entry.type == DIR else entry.type
    raise FluxError(errno.EPERM, f"guests may not commit {what} objects")


class KvsWatchService(Service):
    """On rank 0."""

    name = "kvs-watch"

    def __init__(self, router: Router, log: BrokerLog, kvs: Kvs) -> None:
        super().__init__(router, log)
        self._kvs = kvs
        self._watches: dict[Request, tuple[str, Watch]] = {}
        self._flows: dict[Request, Flow] = {}

    @method("lookup", roles=ALL)
    def lookup(self, request: Request) -> _Later:
        """``{namespace, key, flags}`` → ``{val}``, again and again if the flags say so."""
        namespace, key = request.field("namespace", str), request.field("key", str)
        flags = request.field("flags", int)
        check_flags(flags, is_streaming=request.message.is_streaming)

        def tell(value: TreeObject | None) -> None:
            if value is None:
                request.respond()
            else:
                flow.send(encode_value(value))

        def end(error: FluxError | None) -> None:
            self._watches.pop(request, None)
            self._flows.pop(request, None)
            self.release(request)
            if error is not None:
                request.error(error.errnum, error.text)

        flow = self._flows[request] = Flow(request, lambda: self._kvs.resume_watch(namespace, watch), WIDE)
        watch = Watch(key, flags, credentials_of(request), tell, end, is_open=lambda: flow.is_open)
        self._watches[request] = namespace, watch
        self.hold(request)
        self._kvs.add_watch(namespace, watch)
        return LATER

    @method("credit")
    def credit(self, request: Request) -> Answer:
        """``{matchtag, size}``: the client of that request has read ``size`` bytes; never answered."""
        for flow in list(self._flows.values()):
            flow.credit(request)
        return None

    def abandoned(self, request: Request) -> None:
        """Forget the watcher of a client that has disconnected or cancelled."""
        self._flows.pop(request, None)
        namespace, watch = self._watches.pop(request)
        self._kvs.unwatch(namespace, watch)

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ namespaces and the numbers of their watchers, those of other services included."""
        known = {each.name: each for each in self._kvs.namespaces()}
        counts = {name: len(each.watchers) for name, each in known.items() if each.watchers}
        for name, _ in self._watches.values():
            if name not in known:
                # It waits for the creation of that namespace.
                counts[name] = counts.get(name, 0) + 1
        namespaces = {}
        for name, count in counts.items():
            owner, sequence, ref = -1, -1, "(null)"
            if name in known:
                owner, sequence, ref = known[name].owner, known[name].sequence, known[name].ref
            namespaces[name] = {"owner": owner, "rootseq": sequence, "rootref": ref, "watchers": count}
        return {"watchers": sum(counts.values()), "namespace-count": len(namespaces), "namespaces": namespaces}


class RelayService(Service):
    """Passes requests on towards rank 0, even those that address this rank.

    flux-core caches the tree on every rank, which saves the way. On one machine the way is short, and a client that
    reads from the one store never reads old data. Disconnects of clients go to rank 0 the same way.
    """

    def receive(self, message: Message) -> None:
        """Answer, or pass on."""
        if (message.topic or "").partition(".")[2] in _OWN:
            super().receive(message)
            return
        message.aux1 = self.router.rank
        message.flags |= FLAG_UPSTREAM
        self.router.request(message)


class KvsRelayService(RelayService):
    """`kvs` on the other ranks."""

    name = "kvs"


class KvsWatchRelayService(RelayService):
    """`kvs-watch` on the other ranks."""

    name = "kvs-watch"
