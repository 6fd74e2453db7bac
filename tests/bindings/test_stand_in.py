"""What is ours alone: the place on PYTHONPATH, the version, functions that are missing, what a lost broker does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import pytest_flux
from pytest_flux import bindings
from pytest_flux.bindings import library, missing
from pytest_flux.bindings.core import PARTS
from pytest_flux.bindings.ffi import NULL, Argument, Handle, ctype, ffi, function_type
from tests.bindings.sides import instance_of, our_client


def test_the_directory_is_enough(flux_python: str, tmp_path: Path) -> None:
    """A Python that does not have pytest-flux finds it by the directory, and leaves sys.path alone."""
    script = (
        "import sys; before = list(sys.path)\n"
        "import _flux._core, _flux._hostlist, _flux._idset, _flux._security, pytest_flux\n"
        "assert sys.path == before, sys.path\n"
        "print(pytest_flux.__file__, _flux._core.lib.flux_core_version_string())\n"
    )
    environ = {**os.environ, "PYTHONPATH": bindings.directory()}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [os.path.abspath(pytest_flux.__file__), "b'0.88.0'"]


@pytest.mark.parametrize("version", ["0.87.0", "0.89.0", "0.880", "1.0", None])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def versions(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", versions)
    way = "pytest-flux[bindings]" if version is None else "flux-python==0.88.*"
    with pytest.raises(ImportError, match=f"pip install '{re.escape(way)}'") as caught:
        bindings.check()
    assert (version or "is not installed") in str(caught.value)


def test_the_right_version_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.88.1")
    assert bindings.check() == "0.88.1"


def test_a_missing_function_says_so_when_it_is_called() -> None:
    script = (
        "import flux\nhandle = flux.Flux('loop://')\n"
        "from _flux._core import ffi, lib\nassert lib.flux_plugin_create\n"
        "for call in (lambda: lib.flux_plugin_create(), lambda: handle.flux_stats_count(b'x', 1)):\n"
        "    try: call()\n"
        "    except NotImplementedError as error: print(error)\n"
        "assert not hasattr(lib, 'flux_nonsense')\n"
    )
    environ = {**os.environ, "PYTHONPATH": bindings.directory()}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("flux_plugin_create() of flux-core is not among the bindings of pytest-flux (plugins")
    assert second.startswith("flux_stats_count() of flux-core is not")


def _headers() -> list[tuple[library.Library, str]]:
    files = [file for file in metadata.files("flux-python") or [] if file.name.endswith("_preproc.h")]
    texts = {file.name: Path(str(file.locate())).read_text(encoding="utf-8") for file in files}
    names = {
        "_core": library.core,
        "_hostlist": library.hostlist,
        "_idset": library.idset,
        "_security": library.security,
    }
    return [(lib, texts[f"{name}_preproc.h"]) for name, lib in names.items()]


def test_signatures_are_those_of_the_header() -> None:
    """The wheel's wrappers decide by them which arguments are pointers, and what is an error."""
    assert PARTS
    compared = 0
    for lib, declarations in _headers():
        for name in library.declared_functions(declarations):
            ours = vars(lib).get(name)
            expected = library.find_signature(declarations, name)
            if ours is None or expected is None:
                continue
            compared += 1
            assert _kinds(ours.signature) == _kinds(expected), name
            assert len(ours.signature.split("->")[0].split(",")) == ours.__code__.co_argcount or (
                ours.__code__.co_argcount == 0 or "..." in ours.signature
            ), name
    assert compared > 200


def _kinds(signature: str) -> tuple[list[str], bool, str | None]:
    """What matters of a signature. Callbacks are pointers to functions in C, and so they are here."""
    found = function_type(signature)
    kinds = []
    for argument in found.args:
        pointer = argument.kind == "pointer" or re.search(r"_f \**$|_f$", argument.cname)
        kinds.append("pointer" if pointer else "value")
    result = found.result.cname if found.result is not None else None
    return kinds, found.ellipsis, result


def test_every_function_names_its_manual_page() -> None:
    for lib in (library.core, library.hostlist, library.idset, library.security):
        for name, function in vars(lib).items():
            is_function = name.startswith(("flux_", "hostlist_", "idset_")) and function.__name__ == name
            if is_function and function.__module__ != "pytest_flux.bindings.library":
                assert re.search(r"\w\([0-9]\)|\w\.h\b", function.__doc__ or ""), name


def test_there_is_a_reason_for_everything_that_is_missing() -> None:
    for _, declarations in _headers():
        for name in library.declared_functions(declarations):
            assert missing.reason(name)


def test_handles_are_held_weakly() -> None:
    handle = ffi.new_handle(["x"])
    argument = Argument(handle)
    assert ffi.from_handle(argument.get()) == ["x"]
    del handle
    assert argument.get() is None
    assert Argument(NULL).get() is NULL


def test_values_of_c() -> None:
    assert ffi.new("char *[1]") == [NULL]
    assert ffi.new("double[1]") == [0.0]
    assert ffi.string(b"text\0rest") == b"text"
    assert ffi.string(ffi.new("char[]", b"text"), 2) == b"te"
    assert len(ffi.new("char[]", 7)) == 7
    match = ffi.new("struct flux_match *", {"typemask": 3})[0]
    assert (match.typemask, match.matchtag, match.topic_glob) == (3, 0, NULL)
    assert ffi.new("flux_error_t[1]")[0].text == b"\0"
    assert ffi.typeof("const char *") is ffi.typeof("char*") is ctype("char *")
    assert not NULL
    for wrong in (lambda: ffi.new("char[]", NULL), lambda: ffi.typeof(5), lambda: ffi.new("int")):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(RuntimeError):
        ffi.string(NULL)
    with pytest.raises(SystemError):
        ffi.from_handle(NULL)
    assert isinstance(ffi.new_handle(1), Handle)


_LOST = """
import errno, os, signal, sys
import flux
handle = flux.Flux()
lookup = {"key": "nosuch", "namespace": "primary", "flags": 8}
waiting = [handle.rpc("kvs-watch.lookup", lookup) for _ in range(3)]
waiting[0].then(print)
print("ready", flush=True)
sys.stdin.readline()
ask = lambda: handle.rpc("attr.get", {"name": "size"})
for call in (waiting[1].get, ask, handle.event_recv, handle.reactor_run):
    try:
        call()
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


def test_a_broker_that_dies_ends_what_waits_for_it() -> None:
    client = our_client()
    with instance_of("embedded") as instance:
        environ = {**os.environ, "FLUX_URI": instance.uri, "PYTHONPATH": client.path}
        process = subprocess.Popen(
            [client.python, "-c", _LOST],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    # The instance is gone.
    stdout, stderr = process.communicate("\n", timeout=60)
    lines = stdout.splitlines()
    assert len(lines) == 4, stderr
    assert set(lines) <= {"ECONNRESET", "EPIPE"}, lines
