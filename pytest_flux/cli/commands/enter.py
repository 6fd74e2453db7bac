"""Options of `flux` itself that choose another instance: --parent and --root."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import CommandError, Context
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options


def enter_parent(options: Options, context: Context) -> int:
    """Let FLUX_URI and FLUX_KVS_NAMESPACE be those of the parent; where there is none, leave them."""
    del options
    with context.open() as flux:
        _enter(flux)
    return 0


def enter_root(options: Options, context: Context) -> int:
    """Do that once for each level there is."""
    with context.open() as flux:
        level = flux.getattr("instance-level")
    if not level.isdecimal():
        raise CommandError(f"got invalid instance-level attribute: {level}")
    for _ in range(int(level)):
        enter_parent(options, context)
    return 0


def _enter(flux: Flux) -> None:
    uri = _attribute(flux, "parent-uri")
    if uri is None:
        return
    namespace = _attribute(flux, "parent-kvs-namespace")
    os.environ["FLUX_URI"] = uri
    if namespace is None:
        os.environ.pop("FLUX_KVS_NAMESPACE", None)
    else:
        os.environ["FLUX_KVS_NAMESPACE"] = namespace


def _attribute(flux: Flux, name: str) -> str | None:
    try:
        return flux.getattr(name)
    except FluxError:
        return None
