"""`kvs-watch`: being told of changes (flux-core's modules/kvs-watch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.broker.flow import WIDE, Flow
from pytest_flux.broker.kvs.watch import Watch, check_flags
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.broker.services.kvs import credentials_of, encode_value
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.protocol.treeobj import TreeObject


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
        """``{matchtag, size}``: the client of that request has taken so much; never answered."""
        for flow in list(self._flows.values()):
            flow.credit(request)
        return None

    def abandoned(self, request: Request) -> None:
        """A watcher is gone."""
        self._flows.pop(request, None)
        namespace, watch = self._watches.pop(request)
        self._kvs.unwatch(namespace, watch)

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ who watches what."""
        known = {each.name: each for each in self._kvs.namespaces()}
        namespaces: dict[str, dict[str, object]] = {}
        for name, _ in self._watches.values():
            if name not in namespaces:
                owner, sequence, ref = -1, -1, "(null)"
                if name in known:
                    owner, sequence, ref = known[name].owner, known[name].sequence, known[name].ref
                namespaces[name] = {"owner": owner, "rootseq": sequence, "rootref": ref, "watchers": 0}
            namespaces[name]["watchers"] = sum(name == other for other, _ in self._watches.values())
        return {
            "watchers": len(self._watches),
            "namespace-count": len(namespaces),
            "namespaces": namespaces,
        }
