"""PYTHONPATH with the stand-in for Flux's C module on it: for embedded instances, never for those of a real Flux.

Programs of an instance say ``import flux``. The Python files for that come from PyPI's ``flux-python``, wherever it
is installed; what this package adds is one directory with ``_flux`` (see :mod:`pytest_flux.bindings`). Three ways to
it were open. A ``.pth`` file would act on each start of that Python, with Flux or without. A package `_flux` in
site-packages would fight with that of the wheel. PYTHONPATH is what ``flux env`` of a real Flux sets, too, and it
ends with the instance.

The directory comes first, because the wheel has a `_flux` that would be found otherwise, wherever it is installed.
It hides nothing of a real Flux: a real `flux` puts the directory of its own bindings ahead of it, and where the C
module beside the Python files can be loaded, our `_flux` hands over to it. What must stay true: nothing but `_flux`,
and `flux` for platforms without a wheel, may ever be in these directories, since they come ahead of all that users
have installed.

Launcher, brokers and commands use this module, so it imports nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FLUX_PYTHON = "0.88.0"
"""The version of `flux-python` that ``flux-start --install-bindings`` brings."""


def stand_in() -> str:
    """The directory with the stand-in ``_flux``."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "bindings", "path")


def installed_files(environ: Mapping[str, str]) -> str:
    """The directory that ``flux-start --install-bindings`` fills with the Python files of `flux-python`."""
    data = environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "pytest-flux", f"flux-python-{FLUX_PYTHON}")


def directories(environ: Mapping[str, str]) -> list[str]:
    """What goes on the path of a Python that imports `flux`, in this order."""
    files = installed_files(environ)
    return [stand_in(), files] if os.path.isdir(files) else [stand_in()]


def with_stand_in(environ: Mapping[str, str]) -> str:
    """The value of PYTHONPATH with our directories on it."""
    return os.pathsep.join([*directories(environ), *_others(environ)])


def without_stand_in(environ: Mapping[str, str]) -> str | None:
    """The value of PYTHONPATH without our directories; None if nothing else was on it."""
    return os.pathsep.join(_others(environ)) or None


def _others(environ: Mapping[str, str]) -> list[str]:
    value, ours = environ.get("PYTHONPATH"), (stand_in(), installed_files(environ))
    return [place for place in value.split(os.pathsep) if place not in ours] if value else []
