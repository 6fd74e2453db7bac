"""Imports go one way, and `import pytest_flux` and `flux-start` import only what they use."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "pytest_flux"
ROOT = Path(__file__).parent.parent

_LEAVES = frozenset({"directories", "options", "record", "usage"})
_BELOW_SESSION = frozenset({"protocol", "reactor", "launcher", "client", "postmortem"}) | _LEAVES
_SESSION = frozenset({"settings", "instance", "session", "hooks"})

MAY_IMPORT = {
    "protocol": frozenset({"record"}),
    "directories": frozenset[str](),
    "record": frozenset[str](),
    "options": frozenset({"protocol", "record"}),
    "usage": frozenset({"options"}),
    "reactor": frozenset({"protocol", "record"}),
    "client": frozenset({"protocol", "reactor"}) | _LEAVES,
    "launcher": frozenset({"protocol", "reactor"}) | _LEAVES,
    # That from the broker is for type checkers only.
    "postmortem": frozenset({"protocol", "broker.content.backing"}),
    "broker": frozenset({"protocol", "reactor", "launcher.pmi_server"}) | _LEAVES,
    "cli": _BELOW_SESSION,
    "settings": _SESSION | _BELOW_SESSION,
    "instance": _SESSION | _BELOW_SESSION,
    "hooks": _SESSION | _BELOW_SESSION,
    "session": _SESSION | _BELOW_SESSION,
    "fixtures": _SESSION | _BELOW_SESSION,
    "plugin": _SESSION | _BELOW_SESSION | {"fixtures"},
    "standalone": _SESSION | _BELOW_SESSION,
    "libexec": frozenset[str](),
    "": _SESSION | _BELOW_SESSION | {"fixtures", "standalone"},
}
"""For each room, the rooms or modules that it may import besides itself. The package's own name is ""."""

MAY_IMPORT_LATE = {
    "broker": frozenset({"postmortem"}),
    "launcher": frozenset({"broker.main", "broker.defaults", "broker.parts"}),
    "cli": frozenset({"broker"}),
    "postmortem": frozenset({"broker.content", "broker.jobs", "broker.kvs"}),
    "options": frozenset({"usage"}),
}
"""What may be imported besides, inside a function: embedded brokers, and help texts, which are rarely needed."""

MAY_READ_VERSION = frozenset({"broker", "cli", "client", "launcher", "session"})
"""Who may import the package itself, for ``__version__``."""

NOWHERE = frozenset({"asyncio"})
"""Its place is taken by `pytest_flux.reactor`; ``client.aio`` is for programs that have a loop of it."""

UNUSED_AT_START = {
    *("pytest", "_pytest", "pluggy", "psutil", "filelock"),
    *("argparse", "asyncio", "dataclasses", "inspect", "json", "logging"),
    *("pathlib", "pty", "shutil", "subprocess", "tempfile"),
}

UNUSED_BY_BROKERS = {
    *("asyncio", "dataclasses", "datetime", "inspect", "logging", "platform", "random"),
    *("shutil", "subprocess", "tempfile", "threading", "traceback", "typing", "uuid"),
}
"""They make an instance larger: the more there is, the more pages of memory hold what a broker writes to."""


class Import(NamedTuple):
    """One import of one module: dotted names below the package, ``line`` counted from 1."""

    importer: str
    imported: str
    line: int
    is_late: bool

    def __str__(self) -> str:
        return f"{PACKAGE}.{self.importer}, line {self.line}: imports {self.imported}"


def find_imports(importer: str, is_package: bool, source: str) -> Iterator[Import]:
    """Every import in a module, wherever it stands; ``from a import b`` counts as ``a.b``."""

    def visit(node: ast.AST, is_late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno, is_late)
        elif isinstance(node, ast.ImportFrom):
            above = f"{PACKAGE}.{importer}".rstrip(".").split(".")
            above = above[: len(above) - node.level + is_package] if node.level else []
            for alias in node.names:
                parts = [*above, node.module, alias.name] if node.module else [*above, alias.name]
                yield Import(importer, ".".join(parts), node.lineno, is_late)
        is_late = is_late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, is_late)

    return visit(ast.parse(source), False)


def is_allowed(item: Import) -> bool:
    """Whether the tables above allow an import."""
    top, _, name = item.imported.partition(".")
    if top != PACKAGE:
        return top not in NOWHERE or item.importer == "client.aio"
    importing_room = item.importer.partition(".")[0]
    if name in ("", "__version__"):
        return importing_room in MAY_READ_VERSION
    allowed = MAY_IMPORT[importing_room] | {importing_room}
    if item.is_late:
        allowed |= MAY_IMPORT_LATE.get(importing_room, frozenset())
    return any(name == room or name.startswith(f"{room}.") for room in allowed if room)


def imports_of_the_package() -> Iterator[Import]:
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield from find_imports(name, is_package, path.read_text(encoding="utf-8"))


def test_every_room_has_its_place() -> None:
    rooms = {item.importer.partition(".")[0] for item in imports_of_the_package()}
    assert "protocol" in rooms
    assert not rooms - MAY_IMPORT.keys()


def test_imports_go_one_way() -> None:
    assert [str(item) for item in imports_of_the_package() if not is_allowed(item)] == []


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("protocol.idset", "import pytest_flux.reactor", False),
        ("protocol.idset", "from pytest_flux import reactor", False),
        ("protocol.idset", "from ..reactor import stream", False),
        ("protocol.idset", "from .errors import ProtocolError", True),
        ("protocol.idset", "from pytest_flux import __version__", False),
        ("reactor.stream", "def late():\n    import pytest_flux.client.rpc", False),
        ("reactor.stream", "if TYPE_CHECKING:\n    from pytest_flux.launcher.spec import LaunchSpec", False),
        ("launcher.engine", "from pytest_flux.broker.main import main", False),
        ("launcher.engine", "def late():\n    from pytest_flux.broker.main import main", True),
        ("launcher.engine", "def late():\n    from pytest_flux.broker.local import serve", False),
        ("launcher.engine", "from pytest_flux.launcher2 import spec", False),
        ("broker.exec", "from pytest_flux.launcher.pmi_server import PmiServer", True),
        ("broker.exec", "from pytest_flux.launcher.session import Session", False),
        ("cli.flux_start", "def late():\n    from pytest_flux.broker import main", True),
        ("cli.flux_start", "from pytest_flux.fixtures import flux_instance", False),
        ("plugin", "from pytest_flux.fixtures import flux_instance", True),
        ("fixtures", "from pytest_flux.plugin import anything", False),
        ("broker.main", "import asyncio.events", False),
        ("broker.main", "import os", True),
    ],
)
def test_the_rules_can_be_broken(importer: str, source: str, allowed: bool) -> None:
    assert [is_allowed(item) for item in find_imports(importer, False, source)] == [allowed]


@pytest.mark.parametrize("module", ["pytest_flux", "pytest_flux.cli.flux_start"])
def test_start_imports_nothing_unused(module: str) -> None:
    loaded = modules_after(f"import {module}") - modules_after("pass")
    assert module in loaded
    assert sorted(loaded & UNUSED_AT_START) == []


def test_brokers_import_nothing_large() -> None:
    loaded = modules_after("import pytest_flux.launcher.supervisor, pytest_flux.broker.main")
    assert sorted(loaded & UNUSED_BY_BROKERS) == []


def modules_after(statement: str) -> set[str]:
    """What an interpreter of its own has loaded after ``statement``."""
    # Without what would measure coverage in it: that imports nearly all there is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    program = f"import sys; sys.path.insert(0, sys.argv[1]); {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", program, str(ROOT)]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return set(result.stdout.split())
