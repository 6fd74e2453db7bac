"""``import flux`` without libflux: a stand-in, in pure Python, for the C module of PyPI's ``flux-python``.

The wheel `flux-python` has the Python files of Flux's bindings and a C module, ``_flux``, which needs libflux. The
files stay what users import; the directory that :func:`directory` names has another ``_flux``, which talks to
brokers through :mod:`pytest_flux.client`. Put it on PYTHONPATH, ahead of the wheel.

Three ways were open. A package `flux` of our own would have to follow an API of a hundred modules. Patching the
wheel's files would break with each of its releases, and they are LGPL, as flux-core is. The C API below the files
is small, documented (flux-core's manual, section 3) and changes little: about 110 functions of it are used. What
must stay true: the wheel's files are never changed or copied, and where libflux loads, its own ``_flux`` serves.
"""

from __future__ import annotations

import os
import sys

from pytest_flux import python_path

FLUX_PYTHON = "0.88"
"""The versions of `flux-python` whose Python files this stand-in is made for begin so."""


def directory() -> str:
    """The directory with the stand-in ``_flux``, for PYTHONPATH."""
    return python_path.stand_in()


def check() -> str:
    """The version of `flux-python` that is installed. Raises ImportError, with the way out, for another or none."""
    from importlib import metadata

    need = f"pytest-flux needs flux-python {FLUX_PYTHON} for `import flux`"
    try:
        version = metadata.version("flux-python")
    except metadata.PackageNotFoundError:
        way = "pip install 'pytest-flux[bindings]' (no wheel for the platform: flux-start --install-bindings)"
        raise ImportError(f"flux-python is not installed; {need}: {way}") from None
    if not f"{version}.".startswith(f"{FLUX_PYTHON}."):
        raise ImportError(f"flux-python {version} is installed; {need}: pip install 'flux-python=={FLUX_PYTHON}.*'")
    return version


def enable() -> None:
    """Put the stand-in on the path of this Python, for ``import flux`` in it. It stays there.

    Where the bindings of a real Flux are on the path, they go on serving. Raises ImportError as :func:`check` does,
    and then leaves the path alone.
    """
    before = list(sys.path)
    sys.path[:0] = [place for place in python_path.directories(os.environ) if place not in before]
    try:
        if not _has_real_bindings():
            check()
    except ImportError:
        sys.path[:] = before
        raise
    forget_failed_import()


def _has_real_bindings() -> bool:
    """Whether `flux` is not from the wheel, but from an installation of Flux, which knows nothing of `metadata`."""
    from importlib import util

    try:
        spec = util.find_spec("flux")
    except ValueError:
        return False
    root = os.path.dirname(os.path.dirname(spec.origin)) if spec is not None and spec.origin else ""
    names = os.listdir(root) if root else []
    return "_flux" in names and not any(name.startswith("flux_python-") for name in names)


def forget_failed_import() -> None:
    """Forget what an `import flux` that failed has left behind: subpackages, and a `_flux` without C module."""
    if "flux" not in sys.modules:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("flux", "_flux")]:
            del sys.modules[name]
