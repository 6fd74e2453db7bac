"""`flux version`: versions of commands and broker."""

from __future__ import annotations

import os

from pytest_flux.cli.command import Command, Context, naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.options import Options

FLUX_CORE_VERSION = "0.88.0"
"""The version of flux-core whose protocols, options and output these commands follow."""


def version(options: Options, context: Context) -> int:
    """Print what Flux prints, and a note that the commands are not Flux's own."""
    del options
    import pytest_flux

    print(f"commands:    \t\t{FLUX_CORE_VERSION}")
    print(f"libflux-core:\t\t{FLUX_CORE_VERSION}", flush=True)
    uri = os.environ.get("FLUX_URI")
    if uri:
        with context.open() as flux, naming("flux_attr_get"):
            print(f"broker:  \t\t{flux.getattr('version')}")
        print(f"FLUX_URI:\t\t{uri}")
    print(f"build-options:\t\tembedded (pytest-flux {getattr(pytest_flux, '__version__', 'unknown')})")
    return 0


COMMANDS = (Command("flux version", version, usage="[OPTIONS]...", summary="Print versions", prefix="flux"),)
