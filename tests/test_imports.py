"""Imports go one way and in no circles, and each entry point imports only what it uses."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "pytest_flux"
ROOT = Path(__file__).parent.parent

_LEAVES = frozenset({"directories", "options", "python_path", "record"})
_FOUNDATION = frozenset({"protocol", "reactor"}) | _LEAVES

MAY_IMPORT = {
    "protocol": frozenset({"record"}),
    "directories": frozenset[str](),
    "python_path": frozenset[str](),
    "record": frozenset[str](),
    "options": frozenset({"protocol", "record"}),
    "reactor": frozenset({"protocol", "record"}),
    "client": _FOUNDATION,
    "launcher": _FOUNDATION,
    "postmortem": frozenset({"protocol", "content_sqlite"}),
    "content_sqlite": frozenset({"protocol"}),
    "broker": frozenset({"content_sqlite"}) | _FOUNDATION,
    "bindings": frozenset({"client"}) | _FOUNDATION,
    "report": frozenset({"client"}) | _FOUNDATION,
    "cli": frozenset({"client", "launcher", "postmortem", "report"}) | _FOUNDATION,
    "instance": frozenset({"bindings", "client", "launcher"}) | _FOUNDATION,
    "plugin": frozenset({"bindings", "instance", "client", "launcher", "postmortem", "report"}) | _FOUNDATION,
    "libexec": frozenset[str](),
    "": frozenset({"client", "instance", "plugin", "postmortem"}),
}
"""For each room, the other rooms or modules that it may import, for type checkers too. "" is the package itself."""

MAY_IMPORT_LATE = {
    "broker": frozenset({"postmortem"}),
    "launcher": frozenset({"broker.main", "broker.defaults", "broker.parts"}),
    "cli": frozenset({"broker"}),
    "postmortem": frozenset({"broker.jobs", "broker.kvs"}),
}
"""What a room may also import inside functions: embedded brokers, which are rarely needed."""

MAY_READ_VERSION = frozenset({"broker", "cli", "client", "plugin"})
"""Rooms that may import the package itself, for ``__version__``."""

ONLY_IN = {"asyncio": "client.aio", "pytest": "plugin", "_pytest": "plugin", "pluggy": "plugin"}
"""Modules of others that one room or module may import, and no other."""

LEGACY_CIRCLES: frozenset[str] = frozenset()
"""Rooms that still have circles of more than two files. To be emptied."""

UNUSED_ANYWHERE = {"argparse", "asyncio", "dataclasses", "logging", "pathlib", "subprocess"}
"""They cost time at the start and memory in each broker, so supervisor and brokers never import them."""

UNUSED_BY_THE_FRONT = {
    *UNUSED_ANYWHERE,
    *("pytest", "_pytest", "pluggy", "psutil", "filelock"),
    *("inspect", "json", "pty", "shutil", "tempfile", "threading", "typing"),
}

UNUSED_BY_BROKERS = {
    *UNUSED_ANYWHERE,
    *("datetime", "inspect", "platform", "random"),
    *("shutil", "tempfile", "threading", "traceback", "typing", "uuid"),
}
"""They make an instance larger: brokers write to some pages of memory of each module. Services may import them."""


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
        return _is_in(item.importer, {ONLY_IN.get(top, item.importer)})
    importing_room = item.importer.partition(".")[0]
    if name in ("", "__version__"):
        return importing_room in MAY_READ_VERSION
    allowed = MAY_IMPORT[importing_room] | {importing_room}
    if item.is_late:
        allowed |= MAY_IMPORT_LATE.get(importing_room, frozenset())
    return _is_in(name, allowed - {""})


def _is_in(name: str, rooms: Iterable[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def find_circles(imports: Iterable[Import]) -> list[list[str]]:
    """Groups of more than two modules of the package that all import each other, directly or by way of others."""
    imports = list(imports)
    modules = {item.importer for item in imports}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for item in imports:
        top, _, name = item.imported.partition(".")
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if top == PACKAGE and name:
            graph[item.importer].add(name)
    reach = {module: _reachable(graph, module) for module in modules}
    circles = {frozenset(other for other in reach[module] if module in reach[other]) for module in modules}
    return sorted(sorted(circle) for circle in circles if len(circle) > 2)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


@functools.cache
def imports_of_the_package() -> tuple[Import, ...]:
    return tuple(_imports_of_the_package())


def _imports_of_the_package() -> Iterator[Import]:
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


def test_there_are_no_circles() -> None:
    circles = find_circles(imports_of_the_package())
    rooms = [{module.partition(".")[0] for module in circle} for circle in circles]
    assert [circle for circle, found in zip(circles, rooms, strict=True) if not found <= LEGACY_CIRCLES] == []
    assert {room for found in rooms for room in found} >= LEGACY_CIRCLES, "a room has no circles any more: remove it"


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"a.x": "import pytest_flux.a.y", "a.y": "import pytest_flux.a.x"}, False),
        ({"a.x": "import pytest_flux.a.y", "a.y": "import pytest_flux.a.z", "a.z": "import os"}, False),
        (
            {"a.x": "from pytest_flux.a.y import z", "a.y": "from .z import y", "a.z": "from pytest_flux.a import x"},
            True,
        ),
        ({"a": "from pytest_flux.a import x", "a.x": "from .y import v", "a.y": "from . import w"}, True),
        ({"a.x": "def f():\n    from .y import v", "a.y": "from .z import v", "a.z": "from .x import v"}, True),
        (
            {"a.x": "if TYPE_CHECKING:\n    from .y import v", "a.y": "from .z import v", "a.z": "from .x import v"},
            True,
        ),
    ],
)
def test_circles_are_found(sources: dict[str, str], circle: bool) -> None:
    imports = [item for name, source in sources.items() for item in find_imports(name, name == "a", source)]
    assert find_circles(imports) == ([sorted(sources)] if circle else [])


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("protocol.idset", "import pytest_flux.reactor", False),
        ("protocol.idset", "from pytest_flux import reactor", False),
        ("protocol.idset", "from ..reactor import stream", False),
        ("protocol.idset", "from .errors import ProtocolError", True),
        ("protocol.idset", "from pytest_flux import __version__", False),
        ("reactor.stream", "def late():\n    import pytest_flux.client.connection", False),
        ("reactor.stream", "if TYPE_CHECKING:\n    from pytest_flux.launcher.spec import LaunchSpec", False),
        ("launcher.engine", "from pytest_flux.broker.main import main", False),
        ("launcher.engine", "def late():\n    from pytest_flux.broker.main import main", True),
        ("launcher.engine", "def late():\n    from pytest_flux.broker.local import serve", False),
        ("launcher.engine", "from pytest_flux.launcher2 import spec", False),
        ("broker.exec", "if TYPE_CHECKING:\n    from pytest_flux.protocol.pmi_server import PmiServer", True),
        ("broker.exec", "from pytest_flux.launcher.session import Session", False),
        ("cli.flux_start", "def late():\n    from pytest_flux.broker import main", True),
        ("cli.flux_start", "from pytest_flux.plugin.fixtures import flux_instance", False),
        ("plugin", "from pytest_flux.plugin.fixtures import flux_instance", True),
        ("instance.store", "if TYPE_CHECKING:\n    from pytest_flux.plugin import pool", False),
        ("instance.store", "def late():\n    import pytest", False),
        ("plugin.pool", "import pytest", True),
        ("client.aio", "import asyncio", True),
        ("broker.main", "import asyncio.events", False),
        ("broker.main", "import os", True),
    ],
)
def test_the_rules_can_be_broken(importer: str, source: str, allowed: bool) -> None:
    assert [is_allowed(item) for item in find_imports(importer, False, source)] == [allowed]


@pytest.mark.parametrize(
    ("statement", "unused"),
    [
        ("import pytest_flux", UNUSED_BY_THE_FRONT),
        ("import pytest_flux.cli.flux_start", UNUSED_BY_THE_FRONT),
        ("import pytest_flux.launcher.supervisor, pytest_flux.broker.main", UNUSED_BY_BROKERS),
        # Whatever a session may need, services of jobs included.
        ("from pytest_flux.launcher.forkserver import _preload; _preload()", UNUSED_ANYWHERE),
        ("from pytest_flux.instance import attached, flux_instance, store", {"pytest", "_pytest", "pluggy"}),
        ("import pytest_flux.plugin", {"pytest_flux.instance.settings", "pytest_flux.plugin.pool"}),
    ],
)
def test_entry_points_import_nothing_unused(statement: str, unused: set[str]) -> None:
    loaded = modules_after(statement) - modules_after("pass")
    assert any(module.startswith("pytest_flux") for module in loaded)
    assert sorted(loaded & unused) == []


def test_a_session_imports_nothing_unused(tmp_path: Path) -> None:
    """From the front to the last broker's end, inside functions too: an audit hook outlives forks."""
    log = tmp_path / "imports"
    program = """\
import os, sys
def note(event, arguments, log=sys.argv.pop(1)):
    if event == "import":
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {arguments[0]}\\n")
sys.path.insert(0, sys.argv.pop(1))
sys.addaudithook(note)
from pytest_flux.cli.flux_start import main
sys.exit(main())
"""
    command = [sys.executable, "-c", program, str(log), str(ROOT), "--broker=embedded", "-s2", "true"]
    subprocess.run(command, env=_environment(), check=True)
    pairs = [line.split() for line in log.read_text().splitlines()]
    front = pairs[0][0]
    assert len({pid for pid, _ in pairs}) > 1
    assert {"pytest_flux.broker.main", "pytest_flux.launcher.supervisor"} <= {name for _, name in pairs}
    assert sorted({name for pid, name in pairs if pid == front} & UNUSED_BY_THE_FRONT) == []
    assert sorted({name for _, name in pairs} & UNUSED_BY_BROKERS) == []


def modules_after(statement: str) -> set[str]:
    """The modules that a new interpreter has loaded after ``statement``."""
    program = f"import sys; sys.path.insert(0, sys.argv[1]); {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", program, str(ROOT)]
    result = subprocess.run(command, env=_environment(), check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def _environment() -> dict[str, str]:
    # Without what would measure coverage in it: that imports nearly everything.
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
