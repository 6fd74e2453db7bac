"""Writes bindings.rst: run ``python docs/bindings.py`` when a test says that it is old. It needs `flux-python`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest_flux.bindings.hostlist
import pytest_flux.bindings.idset
import pytest_flux.bindings.security
from pytest_flux.bindings import library, missing
from pytest_flux.bindings.core import PARTS

PAGE = Path(__file__).parent / "bindings.rst"
LIBRARIES = {
    "_core": library.core,
    "_hostlist": library.hostlist,
    "_idset": library.idset,
    "_security": library.security,
}
HEAD = """\
``import flux`` without libflux
===============================

``pip install 'pytest-flux[bindings]'`` brings PyPI's ``flux-python``: the Python files of Flux's bindings, as they
are in flux-core 0.88. Their C module needs libflux, so that on a laptop ``import flux`` fails.
``pytest_flux.bindings`` has a stand-in for that module, in pure Python, which talks to brokers through our own
client. The Python files are not changed. `How to use it <python.rst>`_ is another page.

* ``pytest_flux.bindings.directory()`` is what goes on ``PYTHONPATH``, ahead of the wheel.
* ``pytest_flux.bindings.check()`` returns the version of ``flux-python``, and raises ImportError, with the command
  that installs the right one, for none or another.

The stand-in works with embedded and with real brokers. Where a real Flux is installed, its own bindings are the
ones to use. It does otherwise than the C module in four places, on purpose:

* A handler of the module ``signal`` runs during a blocking call, not after it.
* KeyboardInterrupt and SystemExit in a callback leave ``reactor_run``; the C module prints and drops them.
* ``then()`` on a future that has its response already does not keep ``reactor_run`` from returning.
* A future whose ``wait_for`` has timed out can be given a ``then()``.

What follows is written by ``docs/bindings.py`` from the code and from the header that the wheel brings: which
functions of the C API are there, and why the others are not. A function that is not there raises
NotImplementedError when it is called.
"""


def render() -> str:
    """The page."""
    declared = {name: library.declared_functions(text) for name, text in _headers().items()}
    total = sum(map(len, declared.values()))
    there = sum(name in vars(LIBRARIES[part]) for part, names in declared.items() for name in names)
    lines = [HEAD, _heading(f"There: {there} of {total}"), *_present(), _heading(f"Not there: {total - there}")]
    return "\n".join([*lines, *_absent(declared)])


def _headers() -> dict[str, str]:
    files = metadata.files("flux-python") or []
    paths = {file.name: str(file.locate()) for file in files if file.name.endswith("_preproc.h")}
    return {part: Path(paths[f"{part}_preproc.h"]).read_text(encoding="utf-8") for part in LIBRARIES}


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> Iterator[str]:
    yield ".. list-table::\n   :header-rows: 1\n"
    for left, right in [head, *rows]:
        yield f"   * - {left}\n     - {right}"
    yield ""


def _present() -> Iterator[str]:
    """One table for each module: functions of one manual page in one row."""
    modules = [*PARTS, pytest_flux.bindings.hostlist, pytest_flux.bindings.idset, pytest_flux.bindings.security]
    for module in sorted(modules, key=lambda module: module.__name__):
        pages: dict[str, list[str]] = {}
        for name, function in vars(module).items():
            if getattr(function, "signature", None) and function.__module__ == module.__name__:
                found = re.search(r": ([\w.]+(?:\([0-9]\))?)[^:]*\.", function.__doc__ or "")
                if name.startswith(("flux_", "hostlist_", "idset_")) and found:
                    pages.setdefault(found[1], []).append(f"``{name}``")
        if pages:
            yield f"``{module.__name__.rpartition('.')[2]}``: {(module.__doc__ or '').splitlines()[0]}\n"
            yield from _table(
                ("manual page, or header", "functions"), [(page, ", ".join(names)) for page, names in pages.items()]
            )


def _absent(declared: dict[str, list[str]]) -> Iterator[str]:
    """One table: functions that are missing for one reason in one row."""
    reasons: dict[str, list[str]] = {}
    for part, names in declared.items():
        for name in names:
            if name not in vars(LIBRARIES[part]):
                reasons.setdefault(missing.reason(name), []).append(f"``{name}``")
    yield from _table(("why", "functions"), [(why, ", ".join(names)) for why, names in sorted(reasons.items())])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
