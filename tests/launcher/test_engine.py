from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_flux.launcher import engine as engine_module
from pytest_flux.launcher.engine import Engine, find_engine
from pytest_flux.launcher.spec import LaunchError

BASE = {"PATH": "/usr/bin:/bin", "HOME": "/home/me"}

# An installed flux: a subcommand with a slash in it is executed in Flux's environment.
INSTALLED_FLUX = """\
#!/bin/sh
[ "$FLUX_HIDDEN" ] && unset FLUX_HIDDEN
export FLUX_EXEC_PATH={prefix}/libexec/flux/cmd${{FLUX_EXEC_PATH:+:$FLUX_EXEC_PATH}}
export FLUX_MODULE_PATH="{prefix}/lib
flux"
exec "$@"
"""


@pytest.fixture(autouse=True)
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded broker that is there however much of the package is."""
    broker = executable(tmp_path / "package" / "libexec" / "flux-broker")
    monkeypatch.setattr(engine_module, "EMBEDDED_BROKER", str(broker))
    return broker


def executable(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def install(prefix: Path) -> Path:
    """Make what looks like an installed Flux; its broker."""
    executable(prefix / "bin" / "flux", INSTALLED_FLUX.format(prefix=prefix))
    return executable(prefix / "libexec" / "flux" / "cmd" / "flux-broker")


def path_with(*directories: Path, **more: str) -> dict[str, str]:
    return {**BASE, "PATH": ":".join(map(str, directories)) + ":/usr/bin:/bin", **more}


def refusal(choice: str, environ: dict[str, str]) -> str:
    with pytest.raises(LaunchError) as caught:
        find_engine(choice, environ)
    return str(caught.value)


def test_where_there_is_no_flux_the_embedded_broker_runs(embedded: Path) -> None:
    assert find_engine("auto", BASE) == Engine("embedded", str(embedded), {})
    assert find_engine("embedded", BASE) == Engine("embedded", str(embedded), {})
    assert find_engine("auto", {}) == Engine("embedded", str(embedded), {})


def test_an_incomplete_package(embedded: Path) -> None:
    embedded.unlink()
    assert refusal("auto", BASE) == f"embedded broker: {embedded}: No such file or directory"


@pytest.mark.parametrize("choice", ["auto", "system"])
def test_the_search_path_comes_first(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "opt")
    first, second = executable(tmp_path / "a" / "flux-broker"), executable(tmp_path / "b" / "flux-broker")
    path = path_with(tmp_path / "opt" / "bin")
    search = {"FLUX_EXEC_PATH": f"/noexist::{first.parent}:{second.parent}"}
    assert find_engine(choice, {**path, **search}) == Engine("system", str(first), {})
    search["FLUX_EXEC_PATH_PREPEND"] = f":{second.parent}"
    assert find_engine(choice, {**path, **search}) == Engine("system", str(second), {})
    monkeypatch.chdir(first.parent)
    search["FLUX_EXEC_PATH_PREPEND"] = "."
    assert find_engine(choice, {**path, **search}) == Engine("system", "./flux-broker", {})


def test_what_cannot_be_executed_is_no_broker(tmp_path: Path, embedded: Path) -> None:
    executable(tmp_path / "a" / "flux-broker").chmod(0o644)
    (tmp_path / "b" / "flux-broker").mkdir(parents=True)
    environ = {**BASE, "FLUX_EXEC_PATH": f"{tmp_path}/a:{tmp_path}/b"}
    assert find_engine("auto", environ).broker == str(embedded)


@pytest.mark.parametrize("choice", ["auto", "system"])
def test_an_installed_flux_tells_its_environment(choice: str, tmp_path: Path) -> None:
    broker = install(tmp_path / "opt")
    environ = path_with(tmp_path / "opt" / "bin", FLUX_HIDDEN="1", FLUX_EXEC_PATH="/noexist")
    engine = find_engine(choice, environ)
    assert engine.kind == "system"
    assert engine.broker == str(broker)
    changes = {
        "FLUX_EXEC_PATH": f"{broker.parent}:/noexist",
        "FLUX_MODULE_PATH": f"{tmp_path}/opt/lib\nflux",
        "FLUX_HIDDEN": None,
    }
    assert {name: engine.environ.get(name, "") for name in changes} == changes
    assert "HOME" not in engine.environ
    applied = engine.apply(environ)
    assert applied["HOME"] == "/home/me"
    assert "FLUX_HIDDEN" not in applied
    assert engine.prefix(environ) == str(tmp_path / "opt")


def test_a_rehearsal_asks_nobody(tmp_path: Path) -> None:
    broker = install(tmp_path / "opt")
    executable(tmp_path / "opt" / "bin" / "flux", f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    environ = path_with(tmp_path / "opt" / "bin")
    assert find_engine("auto", environ, rehearsal=True).broker == str(broker)
    assert not (tmp_path / "asked").exists()
    assert find_engine("auto", environ).kind == "embedded"
    assert (tmp_path / "asked").exists()


def test_a_rehearsal_asks_a_flux_in_an_unusual_place(tmp_path: Path) -> None:
    broker = install(tmp_path / "opt")
    flux = tmp_path / "bin" / "flux"
    executable(flux, INSTALLED_FLUX.format(prefix=tmp_path / "opt"))
    assert find_engine("auto", path_with(flux.parent), rehearsal=True).broker == str(broker)


def test_a_broker_of_ones_own_gets_the_environment_too(tmp_path: Path) -> None:
    broker = install(tmp_path / "opt")
    own = executable(tmp_path / "own" / "flux-broker")
    path = path_with(tmp_path / "opt" / "bin")
    for engine in (
        find_engine("auto", {**path, "FLUX_EXEC_PATH_PREPEND": str(own.parent)}),
        find_engine(str(own), path),
    ):
        assert (engine.kind, engine.broker) == ("system", str(own))
        assert str(broker.parent) in (engine.environ["FLUX_EXEC_PATH"] or "")
        assert engine.prefix(path) == str(tmp_path / "opt")


def test_the_flux_that_belongs_to_a_broker_is_asked_first(tmp_path: Path) -> None:
    install(tmp_path / "other")
    broker = install(tmp_path / "opt")
    engine = find_engine(str(broker), path_with(tmp_path / "other" / "bin"))
    assert engine.environ["FLUX_EXEC_PATH"] == str(broker.parent)


@pytest.mark.parametrize(
    "text",
    [
        "echo Flux 1.0: the music tagger",
        "echo FLUX_EXEC_PATH=/",
        "exit 3",
        "exec 1>&-; exec sleep 60",
        "exec cat /dev/zero",
        "kill -9 $$",
    ],
)
def test_other_programs_called_flux(text: str, tmp_path: Path, embedded: Path) -> None:
    executable(tmp_path / "bin" / "flux", f"#!/bin/sh\n{text}\n")
    assert find_engine("auto", path_with(tmp_path / "bin")).broker == str(embedded)
    broker = install(tmp_path / "opt")
    environ = path_with(tmp_path / "bin", tmp_path / "opt" / "bin")
    assert find_engine("auto", environ).broker == str(broker)


def test_a_flux_that_cannot_be_executed(tmp_path: Path, embedded: Path) -> None:
    executable(tmp_path / "bin" / "flux", "#!/badinterp\n")
    assert find_engine("auto", path_with(tmp_path / "bin")).broker == str(embedded)


def test_a_flux_that_hangs(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PATIENCE", 0.1)
    executable(tmp_path / "bin" / "flux", "#!/bin/sh\nexec sleep 60\n")
    started = time.monotonic()
    assert find_engine("auto", path_with(tmp_path / "bin")).broker == str(embedded)
    assert time.monotonic() - started < 30


def test_inside_of_an_embedded_instance(tmp_path: Path, embedded: Path) -> None:
    """Its brokers have the package's directory as search path, and its own `flux` comes first on PATH."""
    exec_path = f"FLUX_EXEC_PATH={embedded.parent}"
    executable(tmp_path / "rundir" / "bin" / "flux", f'#!/bin/sh\nexport {exec_path}\nexec "$@"\n')
    broker = install(tmp_path / "opt")
    path = path_with(tmp_path / "rundir" / "bin", tmp_path / "opt" / "bin")
    inside = {**path, "FLUX_EXEC_PATH": str(embedded.parent)}
    assert find_engine("auto", inside) == Engine("embedded", str(embedded), {})
    assert find_engine("auto", path).kind == "embedded"
    for choice in ("system", str(broker)):
        engine = find_engine(choice, inside)
        assert (engine.kind, engine.broker) == ("system", str(broker))
        assert engine.environ["FLUX_EXEC_PATH"] == str(broker.parent)


def test_the_embedded_broker_by_its_path(tmp_path: Path, embedded: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(embedded)
    assert find_engine(str(embedded), BASE) == Engine("embedded", str(embedded), {})
    assert find_engine(str(link), BASE).kind == "embedded"


def test_a_broker_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    # Without the directory, execvp() would look for it on PATH.
    assert find_engine("mine", BASE) == Engine("system", "./mine", {})


def test_brokers_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for path, reason in {
        "sytem": "No such file or directory",
        "": "No such file or directory",
        str(tmp_path): "Is a directory",
        f"{tmp_path}/plain": "Permission denied",
        f"{tmp_path}/plain/x": "Not a directory",
    }.items():
        assert refusal(path, BASE).startswith(f"--broker={path}: {reason} (")


def test_no_system_broker(tmp_path: Path, embedded: Path) -> None:
    text = refusal("system", {**BASE, "PATH": "/noexist", "FLUX_EXEC_PATH": f"/x:{embedded.parent}"})
    assert text.startswith("Could not locate broker in ")
    for part in ("FLUX_EXEC_PATH_PREPEND (not set)", f"FLUX_EXEC_PATH (/x:{embedded.parent})", "PATH"):
        assert part in text
    flux = executable(tmp_path / "bin" / "flux")
    assert str(flux) in refusal("system", path_with(flux.parent))


@pytest.mark.system_flux
def test_the_environment_of_real_brokers(system_flux: str, tmp_path: Path) -> None:
    """What the real `flux start` gives to a broker is what our engine gives to it."""
    own = executable(tmp_path / "flux-broker", f"#!/bin/sh\nexec /usr/bin/env -0 > {tmp_path}/environ\n")
    path = path_with(Path(system_flux).parent, FLUX_EXEC_PATH_PREPEND=str(own.parent), LD_PRELOAD="")
    pid = os.posix_spawn(system_flux, ["flux", "start", "true"], path)
    assert os.waitpid(pid, 0)[1] == 0
    entries = (tmp_path / "environ").read_text().strip("\0").split("\0")
    expected = dict(entry.split("=", 1) for entry in entries)
    engine = find_engine("auto", path)
    assert engine.broker == str(own)
    ignored = {"_", "PWD", "OLDPWD", "SHLVL"}  # from the shell that the broker of this test is
    applied = engine.apply(path)
    assert {name: value for name, value in applied.items() if name not in ignored} == {
        name: value for name, value in expected.items() if name not in ignored
    }
