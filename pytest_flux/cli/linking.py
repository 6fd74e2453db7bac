"""``flux-start --link`` and ``flux-start --install-bindings``: what a machine without Flux lacks besides brokers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from pytest_flux import python_path
from pytest_flux.launcher.engine import EMBEDDED_BROKER, installed_flux
from pytest_flux.launcher.spec import LaunchError

_PLATFORM = "manylinux_2_17_x86_64"
_NEEDED = ("yaml", "ply")

# With FLUX_EXEC_PATH, the launcher need not ask each `flux` on PATH, this one first, whether it is Flux's.
_START = """\
import os
if sys.argv[1:2] == ["start"]:
    os.environ.setdefault("FLUX_EXEC_PATH", {libexec})
"""
_OTHERS = """\
else:
    os.environ.setdefault("FLUX_URI", {uri})
"""


def link(directory: str, target: str | None) -> None:
    """Write a `flux` into ``directory`` that works outside of instances: it starts them, and connects to them.

    Without FLUX_URI, commands go to the instance that ``target`` names as for ``--attach``. Raises LaunchError where
    an installed Flux, or any other file, would be hidden.
    """
    from pytest_flux.broker.boot.flux_script import flux_script, is_flux_script, write_script

    path = os.path.join(directory, "flux")
    real = installed_flux(os.environ)
    if real is not None:
        raise LaunchError(f"--link={directory}: {path} would hide {real}, which is that of an installed Flux")
    preamble = _START.format(libexec=ascii(os.path.dirname(EMBEDDED_BROKER)))
    if target is not None:
        preamble += _OTHERS.format(uri=ascii(_uri_of(target)))
    try:
        if os.path.lexists(path) and not is_flux_script(path):
            raise LaunchError(f"--link={directory}: {path} exists, and is not ours")
        os.makedirs(directory, exist_ok=True)
        write_script(path, flux_script(sys.executable, preamble))
    except OSError as error:
        raise LaunchError(f"--link={directory}: {error.filename}: {error.strerror}") from None
    places = [os.path.realpath(place) for place in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    known = os.path.realpath(directory) in places
    print(f"{path}: " + ("it is on PATH" if known else f"put {os.path.abspath(directory)} on PATH"))


def _uri_of(target: str) -> str:
    from pytest_flux.cli.attach import find_instance

    try:
        return find_instance(target)
    except (OSError, ValueError) as error:
        raise LaunchError(f"--attach={target}: {getattr(error, 'strerror', None) or error}") from None


def install_bindings() -> None:
    """Have pip bring the Python files of `flux-python`, where PyPI has no wheel for this platform.

    Its x86-64 wheel has them, and our stand-in needs no more of it. Raises LaunchError.
    """
    directory = python_path.installed_files(os.environ)
    if os.path.isdir(directory):
        print(f"{directory} has flux-python {python_path.FLUX_PYTHON} already; remove it to install it anew")
        return
    temporary = f"{directory}.{os.getpid()}"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", temporary, "--platform", _PLATFORM]
    command += ["--python-version", version, "--only-binary=:all:", "--no-deps", "--no-compile"]
    command.append(f"flux-python=={python_path.FLUX_PYTHON}")
    print(f"the Python files of flux-python {python_path.FLUX_PYTHON}, from its wheel for {_PLATFORM}:")
    print(" ".join(command), flush=True)
    try:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        status = subprocess.run(command, check=False).returncode
        if status:
            raise LaunchError(f"--install-bindings: pip ended with exit code {status}")
        _keep_files_of_flux(temporary)
        os.rename(temporary, directory)
    except OSError as error:
        raise LaunchError(f"--install-bindings: {error.filename or command[0]}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"They are in {directory}, which embedded instances and --flux-bindings use from now on.")
    lacking = _lacking()
    if lacking:
        print(f"They need {' and '.join(lacking)}, too: pip install 'pytest-flux[bindings]'")


def _lacking() -> list[str]:
    from importlib import util

    return [name for name in _NEEDED if util.find_spec(name) is None]


def _keep_files_of_flux(directory: str) -> None:
    """Remove what else the wheel has: this directory comes ahead of all that users have installed."""
    for name in os.listdir(directory):
        if not name.startswith(("flux", "_flux")):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
