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

FLUX_PYTHON = "0.88"
"""The versions of `flux-python` whose Python files this stand-in is made for begin so."""


def directory() -> str:
    """The directory with the stand-in ``_flux``, for PYTHONPATH."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "path")


def check() -> str:
    """The version of `flux-python` that is installed. Raises ImportError, with the way out, for another or none."""
    from importlib import metadata

    need = (
        f"pytest-flux needs flux-python {FLUX_PYTHON} for `import flux`: pip install 'flux-python=={FLUX_PYTHON}.*'"
    )
    try:
        version = metadata.version("flux-python")
    except metadata.PackageNotFoundError:
        raise ImportError(f"flux-python is not installed; {need}") from None
    if not f"{version}.".startswith(f"{FLUX_PYTHON}."):
        raise ImportError(f"flux-python {version} is installed; {need}")
    return version
