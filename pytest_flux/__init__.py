"""Flux instances for pytest: the `flux start` launcher, a pytest plugin and an embedded broker."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.instance.flux_instance import FluxInstance, InstanceError, start
    from pytest_flux.instance.settings import Settings, SettingsError
    from pytest_flux.plugin.fixtures import define as flux_instance
    from pytest_flux.postmortem.dump import open_dump

__all__ = ["FluxInstance", "InstanceError", "Settings", "SettingsError", "flux_instance", "open_dump", "start"]

# The module of each name. They are imported on first use, because `flux-start` imports the package too.
_PLACES = {
    "FluxInstance": ("pytest_flux.instance.flux_instance", "FluxInstance"),
    "InstanceError": ("pytest_flux.instance.flux_instance", "InstanceError"),
    "Settings": ("pytest_flux.instance.settings", "Settings"),
    "SettingsError": ("pytest_flux.instance.settings", "SettingsError"),
    "flux_instance": ("pytest_flux.plugin.fixtures", "define"),
    "open_dump": ("pytest_flux.postmortem.dump", "open_dump"),
    "start": ("pytest_flux.instance.flux_instance", "start"),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
