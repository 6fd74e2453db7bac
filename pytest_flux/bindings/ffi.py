"""cffi's side of the stand-in: what the Python files of ``flux-python`` do with ``ffi``, without cffi.

The wheel's Python files talk to flux-core through two objects of a cffi module: ``lib``, which has the functions
and constants of a C library, and ``ffi``, which makes and inspects C values. They use little of cffi: they make
out-parameters (``ffi.new("char *[1]")``), read strings, compare with NULL, ask for the type of a function to learn
which arguments are pointers, and pass Python objects through C as handles. Two ways were open: to build a real cffi
module in "ABI" mode over a library of our own, or to give them Python objects that behave alike. cffi is C, and has
no place for functions written in Python except as callbacks, so this module does the second:

* a ``char *`` is ``bytes``, and NULL is :data:`NULL`;
* an array, and a pointer to one value, is a list; a struct is a :class:`Struct`, which is also a pointer to itself;
* an object of the library (``flux_future_t *``) is an instance of a class that has a ``ctype``;
* a function is a Python function with a ``signature``, which is parsed when somebody asks for its type.

What must stay true: a handle (``ffi.new_handle``) is held weakly by the library, as C does not hold it at all.
Otherwise a future and the Python object around it would keep each other alive, and a future that the user drops
would stay until the garbage collector runs.
"""

from __future__ import annotations

import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Null:
    """The type of :data:`NULL`, the null pointer of every pointer type."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<cdata 'void *' NULL>"


NULL = Null()


class CType:
    """A C type. There is one object for each name, so that ``is`` and ``==`` compare types."""

    __slots__ = ("args", "cname", "ellipsis", "kind", "result")

    def __init__(self, cname: str, kind: str) -> None:
        self.cname = cname
        self.kind = kind
        self.args: tuple[CType, ...] = ()
        self.ellipsis = False
        self.result: CType | None = None

    def __repr__(self) -> str:
        return f"<ctype '{self.cname}'>"


_types: dict[str, CType] = {}


def ctype(name: str) -> CType:
    """The C type of a name; ``const`` makes no difference, as in cffi."""
    found = _types.get(name)
    if found is None:
        cname = " ".join(word for word in name.replace("*", " * ").split() if word != "const")
        cname = cname.replace("* *", "**")
        kind = "void" if cname == "void" else "pointer" if cname.endswith("*") else "primitive"
        if cname.endswith("]"):
            kind = "array"
        elif cname.startswith("struct ") and kind == "primitive":
            kind = "struct"
        found = _types.setdefault(cname, CType(cname, kind))
        _types[name] = found
    return found


def function_type(signature: str) -> CType:
    """The C type of a function: ``flux_t *, int, ... -> int``."""
    found = _types.get(signature)
    if found is None:
        arguments, _, result = signature.rpartition("->")
        names = [name.strip() for name in arguments.split(",") if name.strip()]
        found = CType(f"{result.strip()}(*)({', '.join(names)})", "function")
        found.ellipsis = names[-1:] == ["..."]
        found.args = tuple(ctype(name) for name in names if name != "...")
        found.result = ctype(result.strip())
        _types[signature] = found
    return found


class Struct:
    """A C struct, and a pointer to it: ``p[0]`` and ``p.member`` mean the same object."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)

    def __getitem__(self, index: int) -> Struct:
        if index:
            raise IndexError("a pointer to one struct has no element but 0")
        return self


_STRUCTS: dict[str, dict[str, Any]] = {
    "flux_error_t": {"text": b"\0"},
    "idset_error_t": {"text": b"\0"},
    "struct flux_match": {"typemask": 0, "matchtag": 0, "topic_glob": NULL},
    "struct flux_msg_cred": {"userid": 0, "rolemask": 0},
}


class Handle:
    """A ``void *`` that stands for a Python object; who makes it keeps it, see the head of this module."""

    __slots__ = ("__weakref__", "target")
    ctype = ctype("void *")

    def __init__(self, target: object) -> None:
        self.target = target


class Callback:
    """An ``extern "Python"`` function: what the wheel's Python files define for C to call.

    C cannot pass on an exception, so that cffi prints and drops those that the Python files let out. Here this holds
    for errors; what ends a program leaves the call.
    """

    ctype = ctype("void *")

    def __init__(self, name: str) -> None:
        self.name = name
        self.call: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Call what was defined."""
        if self.call is None:
            raise RuntimeError(f"nobody has defined {self.name}")
        try:
            return self.call(*arguments)
        except Exception:  # noqa: BLE001 - see above
            print(f"Exception ignored from cffi callback {self.call!r}:", file=sys.stderr)
            traceback.print_exc()
            return None


class Argument:
    """The ``void *arg`` of a callback, held weakly if it is a :class:`Handle`."""

    __slots__ = ("_get", "_value")

    def __init__(self, value: Any) -> None:
        self._value = None
        self._get: Callable[[], Any] | None = None
        if isinstance(value, Handle):
            self._get = weakref.ref(value)
        else:
            self._value = value

    def get(self) -> Any:
        """The argument; None if the owner of the handle has dropped it, which in C would be a dangling pointer."""
        return self._value if self._get is None else self._get()


class FFI(threading.local):
    """The object ``ffi`` of a cffi module. ``errno`` is per thread, as in C."""

    NULL = NULL
    CData = object
    errno = 0

    def __init__(self) -> None:
        self.errno = 0

    def new(self, name: str, value: Any = None) -> Any:
        """Make a C value: an array as list or bytearray, a struct as :class:`Struct`."""
        base, bracket, length = name.partition("[")
        base = base.strip()
        if not bracket:
            if not base.endswith("*"):
                raise TypeError(f"expected a pointer or array ctype, got '{name}'")
            return self._new_one(base[:-1].strip(), value)
        if base == "char":
            return _new_buffer(length, value)
        if base in _STRUCTS:
            return [Struct(**_STRUCTS[base]) for _ in range(int(length[:-1]))]
        zero: Any = NULL if base.endswith("*") else 0.0 if base in ("double", "float") else 0
        return [zero] * int(length[:-1])

    def _new_one(self, name: str, value: Any) -> Any:
        if name in _STRUCTS:
            return Struct(**{**_STRUCTS[name], **(value or {})})
        return [(NULL if name.endswith("*") else 0) if value is None else value]

    def string(self, value: Any, maxlen: int = -1) -> bytes:
        """The bytes of a ``char *`` up to its NUL."""
        if value is NULL:
            raise RuntimeError("cannot use string() on <cdata 'char *' NULL>")
        if maxlen >= 0:
            value = value[:maxlen]
        end = value.find(b"\0")
        return bytes(value if end < 0 else value[:end])

    def buffer(self, value: Any, size: int = -1) -> Any:
        """The bytes of a memory area."""
        return value if size < 0 else value[:size]

    def cast(self, name: str, value: Any) -> Any:
        """The same value: pointers have no type here that a cast could change."""
        return value

    def typeof(self, value: Any) -> CType:
        """The type of a name, a function or a C value."""
        if isinstance(value, str):
            return _types.get(value) or ctype(value)
        found = getattr(type(value), "ctype", None) or _registered.get(type(value))
        if found is None and hasattr(value, "signature"):
            found = function_type(value.signature)
        if not isinstance(found, CType):
            raise TypeError(f"expected a 'str' or a C value, got '{type(value).__name__}'; expected a C value")
        return found

    def getctype(self, value: Any) -> str:
        """The name of a type."""
        return value.cname if isinstance(value, CType) else ctype(value).cname

    def new_handle(self, value: object) -> Handle:
        """A ``void *`` for a Python object."""
        return Handle(value)

    def from_handle(self, handle: Any) -> Any:
        """The Python object of a handle."""
        if not isinstance(handle, Handle):
            raise SystemError("ffi.from_handle(): dead or bogus handle")  # noqa: TRY004 - as cffi does
        return handle.target

    def def_extern(self, name: str | None = None) -> Callable[[F], F]:
        """Define an ``extern "Python"`` function: decorates it."""

        def decorate(function: F) -> F:
            callbacks[name or function.__name__].call = function
            return function

        return decorate


def _new_buffer(length: str, value: Any) -> bytearray:
    if length[:-1].strip():
        return bytearray(int(length[:-1]))
    if isinstance(value, int):
        return bytearray(value)
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError(
            f"initializer for ctype 'char[]' must be a bytes or list or tuple, not {type(value).__name__}"
        )
    return bytearray(value + b"\0")


_registered: dict[type, CType] = {}


def register(kind: type, name: str) -> None:
    """Let the objects of a class of another room stand for C objects."""
    _registered[kind] = ctype(name)


CALLBACKS = (
    "message_handler_wrapper",
    "timeout_handler_wrapper",
    "fd_handler_wrapper",
    "signal_handler_wrapper",
    "continuation_callback",
    "init_callback",
)
"""The names that flux-core's cffi module declares as ``extern "Python"``."""

callbacks = {name: Callback(name) for name in CALLBACKS}

ffi = FFI()


def fail(errnum: int, result: Any = -1) -> Any:
    """Set errno, and return what stands for an error: -1, or NULL."""
    ffi.errno = errnum
    return result


def put(target: Any, value: Any) -> None:
    """Write an out-parameter, if there is one."""
    if target is not NULL and target is not None:
        target[0] = value


def set_error(target: Any, message: str) -> None:
    """Write the text of a ``flux_error_t *``, if there is one."""
    if target is not NULL and target is not None:
        # As in C, where the array has 160 bytes.
        target[0].text = message.encode("utf-8", "surrogateescape")[:159] + b"\0"


def text(value: Any) -> str | None:
    """What a ``const char *`` argument says, None for NULL. Raises TypeError, as cffi does, for anything else."""
    if value.__class__ is bytes or value.__class__ is bytearray:
        end = value.find(b"\0")
        return bytes(value if end < 0 else value[:end]).decode("utf-8", "surrogateescape")
    if value is NULL or value is None:
        return None
    raise TypeError(f"initializer for ctype 'char *' must be a cdata pointer, not {type(value).__name__}")


def chars(value: str) -> bytes:
    """The ``char *`` for a text."""
    return value.encode("utf-8", "surrogateescape")


def unsigned(value: int, bits: int) -> int:
    """The same number. Raises OverflowError, as cffi does, if an unsigned type has no room for it."""
    if value < 0:
        raise OverflowError("can't convert negative number to unsigned")
    if value >= 1 << bits:
        words = "int too big to convert" if bits == 64 else f"integer {value} does not fit '{bits}-bit unsigned int'"
        raise OverflowError(words)
    return value
