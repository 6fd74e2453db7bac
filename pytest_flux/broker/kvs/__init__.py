"""The key-value store of an instance. Rank 0 has it; every other rank passes requests on."""

from pytest_flux.broker.kvs.kvs import Kvs, open_kvs, put_op
from pytest_flux.broker.kvs.transaction import APPEND, NO_MERGE, SYNC, Op

__all__ = ["APPEND", "NO_MERGE", "SYNC", "Kvs", "Op", "open_kvs", "put_op"]
