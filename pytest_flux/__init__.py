"""Flux instances for pytest: the `flux start` launcher, a pytest plugin and an embedded broker."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.aio import AsyncFlux
    from pytest_flux.client.handle import Flux
    from pytest_flux.client.job_result import JobFailed, JobOutput, JobResult
    from pytest_flux.client.kvs import Kvs
    from pytest_flux.instance.awaited import AsyncFluxInstance, AsyncJob
    from pytest_flux.instance.flux_instance import FluxInstance, InstanceError, start
    from pytest_flux.instance.operations import Events, Job
    from pytest_flux.instance.replay import replay
    from pytest_flux.instance.settings import Settings, SettingsError
    from pytest_flux.plugin.factory import FluxInstanceFactory
    from pytest_flux.plugin.fixtures import define as flux_instance
    from pytest_flux.plugin.fixtures import mark
    from pytest_flux.postmortem.dump import open_dump

__all__ = [
    "AsyncFlux",
    "AsyncFluxInstance",
    "AsyncJob",
    "Events",
    "Flux",
    "FluxInstance",
    "FluxInstanceFactory",
    "InstanceError",
    "Job",
    "JobFailed",
    "JobOutput",
    "JobResult",
    "Kvs",
    "Settings",
    "SettingsError",
    "flux_instance",
    "mark",
    "open_dump",
    "replay",
    "start",
]

# The module of each name. They are imported on first use, because `flux-start` imports the package too.
_PLACES = {
    "AsyncFlux": ("pytest_flux.client.aio", "AsyncFlux"),
    "AsyncFluxInstance": ("pytest_flux.instance.awaited", "AsyncFluxInstance"),
    "AsyncJob": ("pytest_flux.instance.awaited", "AsyncJob"),
    "Events": ("pytest_flux.instance.operations", "Events"),
    "Flux": ("pytest_flux.client.handle", "Flux"),
    "FluxInstance": ("pytest_flux.instance.flux_instance", "FluxInstance"),
    "FluxInstanceFactory": ("pytest_flux.plugin.factory", "FluxInstanceFactory"),
    "InstanceError": ("pytest_flux.instance.flux_instance", "InstanceError"),
    "Job": ("pytest_flux.instance.operations", "Job"),
    "JobFailed": ("pytest_flux.client.job_result", "JobFailed"),
    "JobOutput": ("pytest_flux.client.job_result", "JobOutput"),
    "JobResult": ("pytest_flux.client.job_result", "JobResult"),
    "Kvs": ("pytest_flux.client.kvs", "Kvs"),
    "Settings": ("pytest_flux.instance.settings", "Settings"),
    "SettingsError": ("pytest_flux.instance.settings", "SettingsError"),
    "flux_instance": ("pytest_flux.plugin.fixtures", "define"),
    "mark": ("pytest_flux.plugin.fixtures", "mark"),
    "open_dump": ("pytest_flux.postmortem.dump", "open_dump"),
    "replay": ("pytest_flux.instance.replay", "replay"),
    "start": ("pytest_flux.instance.flux_instance", "start"),
}

if not TYPE_CHECKING:
    # Hidden from type checkers, or they would accept any name.
    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, attribute = _PLACES[name]
        return getattr(import_module(module), attribute)
