"""`flux version`: versions of commands and broker."""

from __future__ import annotations

import os

from pytest_flux.cli.commands.command import Command, CommandError, Context
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

FLUX_CORE_VERSION = "0.88.0"
"""The version of flux-core whose protocols, options and output these commands have."""


def run(options: Options, context: Context) -> int:
    """Print what Flux prints, and that the commands are not Flux's own."""
    del options
    import pytest_flux

    print(f"commands:    \t\t{FLUX_CORE_VERSION}")
    print(f"libflux-core:\t\t{FLUX_CORE_VERSION}", flush=True)
    uri = os.environ.get("FLUX_URI")
    if uri:
        with context.open() as flux:
            try:
                print(f"broker:  \t\t{flux.getattr('version')}")
            except FluxError as error:
                raise CommandError(f"flux_attr_get: {os.strerror(error.errnum)}") from None
        print(f"FLUX_URI:\t\t{uri}")
    print(f"build-options:\t\tembedded (pytest-flux {getattr(pytest_flux, '__version__', 'unknown')})")
    return 0


COMMAND = Command("flux version", run, usage="[OPTIONS]...", summary="Print versions", prefix="flux")
