"""FLUIDs, the job ids of Flux (RFC 19, "Implementation").

A FLUID has 64 bits: 40 of a clock in milliseconds, 14 of the generator's id, 10 of a counter within a millisecond. It
is a plain integer in memory and in JSON; the other forms are for people and for keys of the KVS.

Parsing follows the order of flux-core's `fluid_parse`: a ``.`` means dothex, ``ƒ`` or ``f`` begins
F58, a character of four bytes in UTF-8 begins emoji; the rest is ``0x`` or decimal digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_flux.protocol.errors import ProtocolError

_DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_MAX_F58 = 12
_MAX_EMOJI = 7
_MAX = 2**64 - 1
_SEQUENCE_BITS = 10
_GENERATOR_BITS = 14
MAX_GENERATOR = (1 << _GENERATOR_BITS) - 1
_SPACE = " \t\n\v\f\r"

FORMS = ("dec", "hex", "dothex", "kvs", "f58", "f58plain", "emoji")
"""The names that `flux job id --to` knows, and :func:`encode_fluid` with it."""


_SIGNS = ["ƒ"]


def write_ascii(is_ascii: bool) -> None:
    """Choose what :func:`f58` begins with in this process, whose output may be for a terminal that has no ``ƒ``."""
    _SIGNS[0] = "f" if is_ascii else "ƒ"


def f58(fluid: int) -> str:
    """The form that people see: ``ƒ`` (or ``f``, see :func:`write_ascii`) and base58 digits without leading zeros."""
    return _SIGNS[0] + _base58(fluid)


def f58plain(fluid: int) -> str:
    """F58 that begins with ``f``, for places that take ASCII only."""
    return "f" + _base58(fluid)


F58_VARIABLES = ("LC_ALL", "LC_CTYPE", "LANG", "FLUX_F58_FORCE_ASCII")
"""What :func:`wants_ascii` looks at in an environment."""


def f58_for(fluid: int, environ: Mapping[str, str]) -> str:
    """F58 as a program with this environment writes it: with ``ƒ`` if its locale has that, and nobody forbids it."""
    return f58plain(fluid) if wants_ascii(environ) else "ƒ" + _base58(fluid)


def wants_ascii(environ: Mapping[str, str]) -> bool:
    """Whether a program with this environment writes job ids without ``ƒ``.

    flux-core asks the C library for the locale (src/common/libutil/fluid.c). By its rules the first of these
    variables that is not empty counts, and a locale without the name of a character set has not UTF-8 (setlocale(3)).
    """
    locale = next(filter(None, (environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
    has_utf8 = locale.upper().partition(".")[2].partition("@")[0] in ("UTF-8", "UTF8")
    return not has_utf8 or "FLUX_F58_FORCE_ASCII" in environ


def _base58(fluid: int) -> str:
    digits = ""
    while fluid:
        fluid, rest = divmod(fluid, 58)
        digits = _DIGITS[rest] + digits
    return digits or "1"


def dothex(fluid: int) -> str:
    """Four groups of four hexadecimal digits, with dots between them."""
    text = f"{fluid:016x}"
    return f"{text[:4]}.{text[4:8]}.{text[8:12]}.{text[12:]}"


def kvs_key(fluid: int, name: str = "") -> str:
    """The key of a job's directory in the KVS, or of one entry in it (RFC 16, "Primary KVS Namespace")."""
    key = "job." + dothex(fluid)
    return f"{key}.{name}" if name else key


def emoji(fluid: int) -> str:
    """Digits in base 576 (RFC 19, emoji encoding)."""
    from pytest_flux.protocol.fluid_tables import EMOJI

    text = ""
    while fluid:
        fluid, rest = divmod(fluid, len(EMOJI))
        text = EMOJI[rest] + text
    return text or EMOJI[0]


def encode_fluid(fluid: int, form: str = "f58") -> str:
    """A FLUID in one of the :data:`FORMS`. Raises ProtocolError for another form."""
    encoders: dict[str, Callable[[int], str]] = {
        "dec": str,
        "hex": hex,
        "dothex": dothex,
        "kvs": kvs_key,
        "f58": f58,
        "f58plain": f58plain,
        "emoji": emoji,
    }
    if form not in encoders:
        raise ProtocolError("unknown form of a job id", form[:40])
    return encoders[form](fluid)


def parse_fluid(text: str) -> int:
    """The FLUID that ``text`` stands for, in any form. Raises ProtocolError."""
    stripped = text.lstrip(_SPACE)
    try:
        if "." in stripped:
            return _parse_dothex(stripped)
        if "-" in stripped:
            # Words (RFC 19, "FLUID Mnemonic (words) Encoding"): the list of words is not ours to distribute.
            raise ValueError
        if stripped[:1] in ("ƒ", "f"):
            return _parse_f58(stripped[1:])
        if stripped[:1] > "\uffff":
            return _parse_emoji(stripped.rstrip(_SPACE))
        return _parse_integer(stripped.rstrip(_SPACE))
    except (KeyError, ValueError):
        raise ProtocolError("not a job id", repr(text[:80])) from None


def _checked(fluid: int) -> int:
    if not 0 <= fluid <= _MAX:
        raise ValueError
    return fluid


def _parse_dothex(text: str) -> int:
    # KVS keys begin with "job."; flux-core removes that where it accepts keys.
    groups = text.removeprefix("job.").split(".")
    if len(groups) != 4 or not all(0 < len(group) <= 4 and group.isalnum() for group in groups):
        raise ValueError
    fluid = 0
    for group in groups:
        fluid = fluid << 16 | int(group, 16)
    return fluid


def _parse_f58(digits: str) -> int:
    if not 0 < len(digits) <= _MAX_F58:
        raise ValueError
    fluid = 0
    for digit in digits:
        fluid = fluid * 58 + _VALUES[digit]
    return _checked(fluid)


def _parse_emoji(text: str) -> int:
    from pytest_flux.protocol.fluid_tables import EMOJI

    if len(text) > _MAX_EMOJI:
        raise ValueError
    fluid = 0
    for digit in text:
        fluid = fluid * len(EMOJI) + EMOJI.index(digit)
    return _checked(fluid)


def _parse_integer(text: str) -> int:
    # More digits than 64 bits have never reach int(), which is slow on long texts.
    if not text.isascii() or not 0 < len(text) <= 20:
        raise ValueError
    if text.startswith("0x"):
        if not text[2:].isalnum():
            raise ValueError
        return _checked(int(text, 16))
    if not text.isdigit():
        raise ValueError
    return _checked(int(text))


class FluidGenerator:
    """Makes FLUIDs that grow. ``now`` is a clock in milliseconds that the caller reads; it may stand still.

    ``timestamp`` is the start of the instance's own clock: after a restart, it is past the newest id.
    """

    def __init__(self, generator: int, timestamp: int, now: int) -> None:
        if not 0 <= generator < 1 << _GENERATOR_BITS:
            raise ProtocolError("generator id out of range", str(generator))
        self._generator = generator
        self._offset = timestamp - now
        self._timestamp = timestamp
        self._sequence = 0

    def timestamp(self, now: int) -> int:
        """The instance's clock."""
        if now + self._offset > self._timestamp:
            self._timestamp = now + self._offset
            self._sequence = 0
        return self._timestamp

    def generate(self, now: int) -> int:
        """A new FLUID.

        After 1023 ids in a millisecond, flux-core waits for the next one. Waiting would block the broker, so this
        advances the clock instead: ids stay unique and in order.
        """
        self.timestamp(now)
        if self._sequence + 1 >= 1 << _SEQUENCE_BITS:
            self._timestamp += 1
            self._sequence = 0
        fluid = (
            self._timestamp << (_GENERATOR_BITS + _SEQUENCE_BITS) | self._generator << _SEQUENCE_BITS | self._sequence
        )
        self._sequence += 1
        return fluid


def fluid_timestamp(fluid: int) -> int:
    """The clock part of a FLUID, in milliseconds."""
    return fluid >> (_GENERATOR_BITS + _SEQUENCE_BITS)
