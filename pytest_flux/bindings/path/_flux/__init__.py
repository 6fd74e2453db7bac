"""Stands where the C module of `flux-python` does; see `pytest_flux.bindings`.

The Python that imports it need not have pytest-flux installed: this directory may be on PYTHONPATH alone. Then the
package is loaded from where this file is, and sys.path stays as it is.

Where the Python files of `flux` have a C module beside them that can be loaded, because libflux is installed, that
serves instead: the directory is on PYTHONPATH of everything that an embedded instance runs, the programs of a real
Flux included.

Modules that we do not stand in for (`_rhwloc_treepool`, which needs hwloc and no Flux) come from the next `_flux` on
sys.path, if that has them.
"""

import importlib.util
import os
import pkgutil
import sys


def _hand_over() -> bool:
    """Make this package the one beside the Python files of `flux`, if libflux can be loaded there."""
    try:
        spec = importlib.util.find_spec("flux")
    except ValueError:
        return False
    if spec is None or not spec.origin:
        return False
    beside = os.path.join(os.path.dirname(os.path.dirname(spec.origin)), __name__)
    if not os.path.isdir(beside):
        return False
    own = list(__path__)
    __path__[:] = [beside]
    try:
        importlib.import_module(f"{__name__}._core")
    except ImportError:
        __path__[:] = own
        return False
    return True


def _load() -> None:
    if importlib.util.find_spec("pytest_flux") is not None:
        return
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    spec = importlib.util.spec_from_file_location(
        "pytest_flux", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pytest_flux"] = module
    spec.loader.exec_module(module)


if not _hand_over():
    _load()
    __path__ = pkgutil.extend_path(__path__, __name__)
