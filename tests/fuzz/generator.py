"""Hostile input: valid input that was damaged, and noise that looks a little like it. Seeded, so that it repeats."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from pytest_flux.protocol.framing import encode_frame
from pytest_flux.protocol.message import EVENT, REQUEST, RESPONSE, Message, encode_json
from pytest_flux.protocol.pmi import encode

_WORDS = (*b"cmd= init put get barrier_in key= value= kvsname=- rc= =".split(), b"\n", b" ")
_NUMBERS = (0, 1, -1, 64, 1023, 1024, 2**31, 2**32, 2**63, 10**30)


def _pmi_lines(rng: random.Random) -> list[bytes]:
    number = rng.choice(_NUMBERS)
    return [
        encode("init", pmi_version=rng.choice((1, number)), pmi_subversion=rng.choice((1, 2, number))),
        encode("get_maxes"),
        encode("get_my_kvsname"),
        encode("put", kvsname="-", key="k" * rng.randrange(80), value="v" * rng.choice((0, 1, 1023, 1024, 5000))),
        encode("get", kvsname="-", key=rng.choice(("k", "PMI_process_mapping", "é", "a=b"))),
        encode("barrier_in"),
        b"mcmd=spawn\nnprocs=1\nendcmd\n",
        encode("abort", exitcode=number, error_msg="x" * rng.randrange(300)),
        encode("finalize"),
    ]


def _messages(rng: random.Random) -> list[bytes]:
    topic = rng.choice(("attr.get", "a" * 300, "", "x.y.z", "service.add", "event.subscribe", "log.append"))
    payload = rng.choice((None, b"", b"\0", b"{", encode_json({"name": "rank"}), b"[" * 5000 + b"\0", bytes(600)))
    routes = rng.choice((None, [], ["a"], ["a" * 300, "b"], [""]))
    kind = rng.choice((REQUEST, RESPONSE, EVENT))
    message = Message(kind, topic, payload, routes=routes, aux1=rng.randrange(2**32), aux2=rng.randrange(2**32))
    data = bytearray(encode_frame(message))
    if rng.random() < 0.3:
        data[4:8] = struct.pack(">I", rng.choice((0, 1, 2**31, 2**32 - 1, len(data))))
    return [bytes(data)]


def _damage(rng: random.Random, data: bytes) -> bytes:
    mutable = bytearray(data)
    for _ in range(rng.randrange(4)):
        if not mutable:
            break
        place = rng.randrange(len(mutable))
        action = rng.randrange(4)
        if action == 0:
            mutable[place] = rng.randrange(256)
        elif action == 1:
            del mutable[place : place + rng.randrange(1, 9)]
        elif action == 2:
            mutable[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            del mutable[place:]
    return bytes(mutable)


def hostile_pmi(seed: int) -> Iterator[bytes]:
    """Endless pieces of bad PMI conversations."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.2:
            yield b"".join(rng.choices(_WORDS, k=rng.randrange(12)))
        else:
            yield _damage(rng, rng.choice(_pmi_lines(rng)))


def hostile_frames(seed: int) -> Iterator[bytes]:
    """Endless pieces of bad message streams."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.1:
            yield rng.randbytes(rng.randrange(64))
        else:
            yield _damage(rng, rng.choice(_messages(rng)))
