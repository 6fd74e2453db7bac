"""The functions of a C library, by name, as attributes: the object ``lib`` of a cffi module."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pytest_flux.bindings.ffi import callbacks

F = TypeVar("F", bound=Callable[..., Any])

_DECLARATION = r"\b(?P<name>{name}) *\((?P<arguments>[^;{{}}]*?)\) *;"
_RESULT = re.compile(r"([A-Za-z_][\w ]*?[ *]+)$")


class Library:
    """``lib``: functions, constants and callbacks as attributes.

    A function that flux-core has and we do not is found in the header that the wheel brings along, and can be had
    here: it raises only when it is called. Any other name raises AttributeError, which the wheel's wrappers need:
    they try ``rpc`` before ``flux_rpc``.
    """

    def __init__(self, header: str) -> None:
        self._header = header
        self._declarations: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("flux_", "hostlist_", "idset_")):
            signature = find_signature(self._read_header(), name)
            if signature is not None:
                function = _missing(name, signature)
                setattr(self, name, function)
                return function
        module = f"_flux.{self._header.removesuffix('_preproc.h')}"
        raise AttributeError(f"cffi library '{module}' has no function, constant or global variable named '{name}'")

    def _read_header(self) -> str:
        if self._declarations is None:
            self._declarations = read_header(self._header)
        return self._declarations


core = Library("_core_preproc.h")
hostlist = Library("_hostlist_preproc.h")
idset = Library("_idset_preproc.h")
security = Library("_security_preproc.h")

for _name, _callback in callbacks.items():
    setattr(core, _name, _callback)


def function(signature: str, library: Library = core) -> Callable[[F], F]:
    """Make a Python function the C function of its name: ``flux_t *, int -> char *``."""

    def decorate(target: F) -> F:
        target.signature = signature  # type: ignore[attr-defined]
        setattr(library, target.__name__, target)
        return target

    return decorate


def read_header(name: str) -> str:
    """The declarations that the wheel was built from; empty if the Python files of `flux` come from elsewhere."""
    package = sys.modules.get("flux")
    for directory in getattr(package, "__path__", ()):
        path = Path(directory).parent / "src" / name
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return ""


def find_signature(declarations: str, name: str) -> str | None:
    """The signature of a function, in our form, from C declarations."""
    match = re.search(_DECLARATION.format(name=re.escape(name)), declarations)
    if match is None:
        return None
    # No result type is longer.
    result = _RESULT.search(declarations[max(match.start() - 80, 0) : match.start()])
    arguments = [_argument(word) for word in match["arguments"].split(",")]
    arguments = [argument for argument in arguments if argument not in ("", "void")]
    return f"{', '.join(arguments)} -> {' '.join(result[1].split()) if result else 'int'}"


def declared_functions(declarations: str) -> list[str]:
    """The names of all functions in C declarations, in their order."""
    names = re.findall(_DECLARATION.format(name=r"(?:flux|hostlist|idset)_\w+"), declarations)
    return list(dict.fromkeys(name for name, _ in names))


def _argument(words: str) -> str:
    """The type of one parameter, without its name."""
    words = " ".join(words.replace("*", " * ").replace("[", " [").split())
    if words in ("", "...", "void"):
        return words
    parts = words.split(" ")
    pointers = parts.count("*") + sum(part.startswith("[") for part in parts)
    names = [part for part in parts if part not in ("*", "const") and not part.startswith("[")]
    if len(names) > 1 and not (len(names) == 2 and names[0] in ("struct", "enum", "unsigned")):
        names.pop()
    return " ".join(names) + (" " + "*" * pointers if pointers else "")


def _missing(name: str, signature: str) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        from pytest_flux.bindings.missing import reason

        raise NotImplementedError(
            f"{name}() of flux-core is not among the bindings of pytest-flux ({reason(name)}); "
            "with a Flux that is installed, use its own Python bindings"
        )

    function.__name__ = name
    function.signature = signature  # type: ignore[attr-defined]
    return function
