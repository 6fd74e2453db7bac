from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_flux.launcher.command import announcement, broker_argv, broker_environ
from pytest_flux.launcher.engine import Engine
from pytest_flux.launcher.spec import LaunchError, LaunchSpec

ENGINE = Engine("system", "/opt/x/libexec/flux/cmd/flux-broker", {})
OTHER = Engine("system", "./flux-broker", {})
EMBEDDED = Engine("embedded", "/site/pytest_flux/libexec/flux-broker", {})

EVERYTHING = LaunchSpec(
    command=("p", "q r"),
    size=2,
    setattrs=("z=9", "a=1"),
    broker_opts=("-q", "-v"),
    config_path="/cfg",
    conf=("x=1", "y=[1,2]"),
    wrap=("gdb", "--args"),
    hosts="fake[0-1]",
)

RECOVERY = [
    "-Sbroker.recovery-mode=1",
    "-Sbroker.quorum=1",
    "-Sbroker.module-nopanic=1",
    "-Slog-stderr-level=5",
]


def options(spec: LaunchSpec, engine: Engine = ENGINE) -> list[str]:
    """What stands between the broker and the run directory."""
    argv = broker_argv(spec, engine, 1, "/r")
    assert argv[0] == engine.broker
    assert argv[-1] == "--setattr=rundir=/r"
    return argv[1:-1]


def refusal(spec: LaunchSpec, engine: Engine = ENGINE) -> str:
    with pytest.raises(LaunchError) as caught:
        broker_argv(spec, engine, 0, "/r")
    return str(caught.value)


def test_order_of_arguments() -> None:
    common = ["gdb", "--args", ENGINE.broker, "-Sz=9", "-Sa=1", "-q", "-v", "-c/cfg", "--conf=x=1", "--conf=y=[1,2]"]
    rundir = "--setattr=rundir=/r"
    assert broker_argv(EVERYTHING, ENGINE, 0, "/r") == [
        *common,
        rundir,
        "--setattr=hostname=fake0",
        "p",
        "q r",
    ]
    assert broker_argv(EVERYTHING, ENGINE, 1, "/r") == [*common, rundir, "--setattr=hostname=fake1"]
    assert broker_argv(EVERYTHING._replace(hosts=None), ENGINE, None, "") == [*common, "p", "q r"]


def test_the_environment_of_a_rank() -> None:
    engine = OTHER._replace(environ={"FLUX_MODULE_PATH": "/m", "GONE": None})
    environ = broker_environ(EVERYTHING, engine, 1, "/r", {"GONE": "1", "HOME": "/h", "PMI_RANK": "7"})
    assert environ == {
        "HOME": "/h",
        "FLUX_MODULE_PATH": "/m",
        "PMI_RANK": "1",
        "PMI_SIZE": "2",
        "FLUX_START_URI": "local:///r/start",
        "FLUX_FAKE_HOSTNAME": "fake1",
    }


def test_the_environment_in_normal_mode() -> None:
    base = {"PMI_RANK": "7", "PMI_FD": "3"}
    assert broker_environ(LaunchSpec(), OTHER, None, "", base) == base
    assert broker_environ(LaunchSpec(), EMBEDDED, None, "", base) == {**base, "PYTEST_FLUX_PYTHON": sys.executable}


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ({}, {"LD_PRELOAD": "libcaliper.so", "CALI_LOG_VERBOSITY": "0"}),
        ({"LD_PRELOAD": ""}, {"LD_PRELOAD": "libcaliper.so", "CALI_LOG_VERBOSITY": "0"}),
        (
            {"LD_PRELOAD": "libx.so", "CALI_LOG_VERBOSITY": "2", "CALI_CONFIG_PROFILE": "old"},
            {"LD_PRELOAD": "libx.so libcaliper.so", "CALI_LOG_VERBOSITY": "2"},
        ),
    ],
)
@pytest.mark.parametrize("rank", [None, 0])
def test_caliper(base: dict[str, str], changed: dict[str, str], rank: int | None) -> None:
    environ = broker_environ(LaunchSpec(caliper_profile="profile"), OTHER, rank, "/r", base)
    environ = {name: value for name, value in environ.items() if name.startswith(("LD_", "CALI_"))}
    assert environ == {**changed, "CALI_CONFIG_PROFILE": "profile"}


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        (ENGINE, "/opt/x/etc/flux/system/conf.d"),
        (ENGINE._replace(broker="/usr/libexec/flux/cmd/flux-broker"), "/etc/flux/system/conf.d"),
        (OTHER, "/etc/flux/system/conf.d"),
        (OTHER._replace(environ={"FLUX_EXEC_PATH": ".:/y/libexec/flux/cmd"}), "/y/etc/flux/system/conf.d"),
        (EMBEDDED, "/etc/flux/system/conf.d"),
    ],
)
def test_the_system_configuration(engine: Engine, path: str) -> None:
    assert options(LaunchSpec(sysconfig=True), engine) == [f"-c{path}"]


def test_a_configuration_of_ones_own_overrides_the_systems_with_a_warning() -> None:
    spec = LaunchSpec(sysconfig=True, config_path="/x")
    warning = "flux-start: Warning: overriding recovery/--sysconfig path with /x\n"
    assert options(spec) == ["-c/x"]
    assert announcement(spec, ["b"], 0) == warning
    assert announcement(LaunchSpec(recovery=True, config_path="/x"), ["b"], 0) == warning
    assert announcement(LaunchSpec(recovery=True, recovery_target="t", config_path="/x"), ["b"], 0) == ""
    assert announcement(LaunchSpec(config_path="/x"), ["b"], 0) == ""
    assert announcement(spec._replace(verbose=2), ["b", "", "c d"], 3) == f"{warning}flux-start: 3: b  c d\n"


def test_command_lines_are_for_the_verbose() -> None:
    assert announcement(LaunchSpec(), ["b"], None) == ""
    assert announcement(LaunchSpec(verbose=-1), ["b"], None) == ""
    assert announcement(LaunchSpec(verbose=1), ["b"], None) == "flux-start: b\n"


def test_an_empty_configuration_path_is_passed_on() -> None:
    assert options(LaunchSpec(config_path="")) == ["-c"]


def test_recovery_from_a_file(tmp_path: Path) -> None:
    dump = tmp_path / "dump.tar"
    dump.touch()
    spec = LaunchSpec(setattrs=("a=1",), broker_opts=("-v",), conf=("c=1",), config_path="/x")
    spec = spec._replace(recovery=True, recovery_target=str(dump))
    assert options(spec) == ["-Sa=1", "-v", *RECOVERY, f"-Scontent.restore={dump}", "-c/x", "--conf=c=1"]


def test_recovery_from_a_statedir(tmp_path: Path) -> None:
    state = tmp_path / "state"
    spec = LaunchSpec(recovery=True, recovery_target=str(state))
    assert refusal(spec) == f"{state}: No such file or directory"
    state.mkdir(mode=0o500)
    assert refusal(spec) == f"{state}: no access"
    state.chmod(0o700)
    assert refusal(spec) == f"{state}/content.sqlite: No such file or directory"
    (state / "content.sqlite").touch()
    assert options(spec) == [*RECOVERY, f"-Sstatedir={state}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_recovery_without_permission(tmp_path: Path) -> None:
    store = tmp_path / "content.sqlite"
    store.touch(mode=0o200)
    spec = LaunchSpec(recovery=True, recovery_target=str(tmp_path))
    assert refusal(spec) == f"{store}: no read permission"
    store.chmod(0o400)
    assert refusal(spec) == f"{store}: no write permission"
    assert refusal(spec._replace(recovery_target="/")) == "/: not owned by you"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_recovery_from_a_statedir_of_others(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    spec = LaunchSpec(recovery=True, recovery_target=str(tmp_path))
    assert refusal(spec) == f"{tmp_path}: not owned by you"
    os.chown(tmp_path, 0, 0)


def test_the_system_instance_must_not_run() -> None:
    with tempfile.TemporaryDirectory(prefix="si-", dir="/tmp") as prefix:
        engine = Engine("system", f"{prefix}/libexec/flux/cmd/flux-broker", {})
        os.makedirs(f"{prefix}/var/run/flux")
        address = f"{prefix}/var/run/flux/local"
        spec = LaunchSpec(recovery=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            assert refusal(spec, engine) == "system instance is already running"
            # With a target of its own, recovery is none of the system instance's business.
            broker_argv(spec._replace(recovery_target=address), engine, 0, "/r")
        if os.path.exists("/var/lib/flux"):
            pytest.skip("this machine has the state of a system instance")
        assert refusal(spec, engine) == "/var/lib/flux: No such file or directory"
