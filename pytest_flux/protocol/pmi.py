"""The simple PMI-1 wire protocol (RFC 13, "Wire Protocol"): its lines, and the client's side of it.

A line is ``key=value`` words separated by white space, ended by LF. A word ends at white space; a *string*
(``value``, ``msg``, ``error_msg``) runs to the end of its line, so it must be the last. The server's side
is in :mod:`pytest_flux.protocol.pmi_server`.

Text is UTF-8 with ``surrogateescape``, so that all bytes that a client puts come back unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

# Sizes of flux-core's buffers, announced by get_maxes; one byte of each is C's NUL.
KVSNAME_MAX = 64
KEYLEN_MAX = 64
VALLEN_MAX = 1024

# No legal line of PMI 1.1 exceeds the 1216 bytes of flux-core's own buffers. But flux-core reads longer ones, to
# answer them with a code ("value too long"), and PMI 1.2 lists the ranks of a barrier on one line: 4,096 take 20 KiB.
LINE_MAX = 32 * 1024

# RFC 13 "Return Codes".
SUCCESS = 0
FAIL = -1
INVALID_KEY = 4  # also: no such key
INVALID_KEY_LENGTH = 5
INVALID_VAL_LENGTH = 7
INVALID_LENGTH = 8  # of the kvsname

# In the order in which flux-core tries them, which matters to command_of(): get_maxes before get.
COMMANDS = (
    "init",
    "get_maxes",
    "abort",
    "finalize",
    "get_universe_size",
    "get_appnum",
    "get_my_kvsname",
    "put",
    "get",
    "barrier_in",
    "publish_name",
    "unpublish_name",
    "lookup_name",
)

# White space by isspace() in the C locale, as in flux-core. LF never occurs within a line.
WHITE_SPACE = " \t\r\v\f"
_STRINGS = ("value", "msg", "errmsg", "error_msg")
# Hydra of MPICH 4.1 and 4.2 appends this to the values it returns; flux-core drops it from all it reads.
_HYDRA_SUFFIX = " found=TRUE"


class Response(NamedTuple):
    """One line of a server: its ``cmd``, the other words, and ``rc`` (0 if the server omitted it)."""

    command: str
    fields: Mapping[str, str]
    rc: int


class LineBuffer:
    """Cuts a stream of bytes into lines, without their LF.

    Raises ProtocolError for a line of more than ``limit`` bytes, and for one that holds a NUL. Lines that
    came before the bad one are not lost: they are returned, ``fault`` is set, and the next call raises it.
    """

    __slots__ = ("_limit", "_partial", "fault")

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit
        self._partial = bytearray()
        self.fault: ProtocolError | None = None

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, in order."""
        lines: list[str] = []
        if self.fault is None:
            try:
                self._cut(data, lines)
            except ProtocolError as error:
                self.fault = error
                self._partial.clear()
        if self.fault is not None and not lines:
            raise self.fault
        return lines

    def _cut(self, data: bytes, lines: list[str]) -> None:
        *complete, rest = data.split(b"\n")
        for line in complete:
            if self._partial:
                line = bytes(self._partial) + line
                self._partial.clear()
            self._check(len(line), line)
            lines.append(line.decode("utf-8", "surrogateescape"))
        self._check(len(self._partial) + len(rest), rest)
        self._partial += rest

    def _check(self, length: int, line: bytes) -> None:
        if b"\0" in line or length > self._limit:
            raise ProtocolError(f"PMI line with a NUL, or longer than {self._limit} bytes", repr(line[:64]))


def word_at(line: str, start: int) -> str:
    """The word of ``line`` that begins at index ``start``; empty if white space is there."""
    word = line[start:].partition(" ")[0]
    if not word.isprintable():  # so another white space may be in it: rare, hence tried last
        for space in WHITE_SPACE:
            word = word.partition(space)[0]
    return word


def find_field(line: str, key: str) -> int:
    """The index at which the value of ``key`` begins in ``line``, or -1.

    The leftmost ``key=`` that begins the line or follows white space counts, even inside another key's string, as in
    flux-core's keyval.c.
    """
    pattern = key + "="
    at = line.find(pattern)
    while at > 0 and line[at - 1] not in WHITE_SPACE:
        at = line.find(pattern, at + 1)
    return at + len(pattern) if at >= 0 else -1


def mandatory_field(line: str, key: str) -> int:
    """As :func:`find_field`, but raises ProtocolError if there is no such key."""
    start = find_field(line, key)
    if start < 0:
        raise ProtocolError(f"PMI line without {key}=", repr(line[:64]))
    return start


def unsigned_field(line: str, key: str) -> int | None:
    """The value of ``key``; None if it is missing, or not a number that fits into C's unsigned int."""
    start = find_field(line, key)
    text = word_at(line, start) if start >= 0 else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number < 2**32 else None


def string_at(line: str, start: int) -> str:
    """The string of ``line`` that begins at index ``start``."""
    return line[start:].removesuffix(_HYDRA_SUFFIX)


def byte_length(text: str) -> int:
    """The length of ``text`` on the wire, in bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def command_of(line: str) -> str:
    """The command of a client's line: one of COMMANDS, or ``spawn``, whose lines begin with ``mcmd=``.

    As in flux-core, the word may be anywhere in the line, and need only *begin* with the name of the command. Raises
    ProtocolError if the line has no command.
    """
    name = line[4:].partition(" ")[0] if line.startswith("cmd=") else ""
    if name in COMMANDS:
        return name
    start = find_field(line, "cmd")
    if start >= 0:
        for name in COMMANDS:
            if line.startswith(name, start):
                return name
    start = find_field(line, "mcmd")
    if start >= 0 and line.startswith("spawn", start):
        return "spawn"
    raise ProtocolError("no PMI command", repr(line[:64]))


def encode_line(line: str) -> bytes:
    """A line as it goes onto the wire."""
    return line.encode("utf-8", "surrogateescape") + b"\n"


def encode(command: str, /, **fields: str | int) -> bytes:
    """A request of a client, as one line with its LF. Strings go last.

    LF in an ``error_msg`` becomes a space, as flux-core's clients send it. Raises ValueError for other text that
    would arrive changed: white space in a word, LF in a string.
    """
    words = [f"cmd={command}"]
    for key in sorted(fields, key=lambda key: key in _STRINGS):
        text = str(fields[key])
        if key == "error_msg":
            text = text.replace("\n", " ")
        if "\n" in text or "\0" in text or (key not in _STRINGS and word_at(text, 0) != text):
            raise ValueError(f"cannot be sent over PMI: {key}={text!r}")
        words.append(f"{key}={text}")
    return encode_line(" ".join(words))


def decode_response(line: bytes | str) -> Response:
    """Take a server's line apart, with or without its LF.

    It accepts any server of PMI 1.1 or 1.2: words may come in any order, unknown ones are kept, words without ``=``
    are dropped. Raises ProtocolError if ``cmd`` is missing or ``rc`` is not an integer.
    """
    text = line.decode("utf-8", "surrogateescape") if isinstance(line, bytes) else line
    rest = text.removesuffix("\n").lstrip(WHITE_SPACE)
    fields: dict[str, str] = {}
    while rest:
        word = word_at(rest, 0)
        key, equals, value = word.partition("=")
        if equals and key in _STRINGS:
            fields.setdefault(key, string_at(rest, len(key) + 1))
            break
        if equals:
            fields.setdefault(key, value)
        rest = rest[len(word) :].lstrip(WHITE_SPACE)
    command = fields.pop("cmd", "")
    if not command:
        raise ProtocolError("PMI response without cmd=", repr(text[:64]))
    return Response(command, fields, _result_code(fields.get("rc", "0")))


def _result_code(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise ProtocolError("PMI response whose rc is not an integer", repr(text[:64]))
    return int(text)
