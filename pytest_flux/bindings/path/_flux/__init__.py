"""Stands where the C module of `flux-python` does; see `pytest_flux.bindings`.

The Python that imports it need not have pytest-flux installed: this directory may be on PYTHONPATH alone. Then the
package is loaded from where this file is, and sys.path stays as it is.

Modules that we do not stand in for (`_rhwloc_map`, which needs hwloc and no Flux) come from the next `_flux` on
sys.path, if that has them.
"""

import importlib.util
import os
import pkgutil
import sys


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


_load()
__path__ = pkgutil.extend_path(__path__, __name__)
