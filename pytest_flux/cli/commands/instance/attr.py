"""`flux getattr`, `flux setattr` and `flux lsattr`: the attributes of the broker."""

from __future__ import annotations

from pytest_flux.cli.command import Command, Context, explaining, naming
from pytest_flux.options import Option
from pytest_flux.protocol.errors import FluxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux, Rpc
    from pytest_flux.options import Options


def get_attribute(options: Options, context: Context) -> int:
    """Print the value of the attribute."""
    if len(options.arguments) != 1:
        raise context.command.usage_error()
    name = options.arguments[0]
    with context.open() as flux, naming(f"{name}"):
        print(flux.getattr(name))
    return 0


SETATTR_OPTIONS = (Option("force", "f", usage="Set it even if it is not meant to change at run time"),)


def set_attribute(options: Options, context: Context) -> int:
    """Set the attribute."""
    if len(options.arguments) != 2:
        raise context.command.usage_error()
    name, value = options.arguments
    with context.open() as flux, explaining(f"{name}"):
        flux.setattr(name, value, force=options.has("force"))
    return 0


LSATTR_OPTIONS = (Option("values", "v", usage="With their values"),)


def list_attributes(options: Options, context: Context) -> int:
    """Print the names, sorted."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        with naming("attr.list"):
            names = flux.lsattr()
        if not options.has("values"):
            print("\n".join(names))
            return 0
        # Send all requests first, so that all answers cost one round trip.
        for name, rpc in [(name, flux.rpc("attr.get", {"name": name})) for name in names]:
            print(f"{name:<40}{_value(rpc)}")
    return 0


def _value(rpc: Rpc) -> str:
    """Return the value, or a dash if the attribute has none."""
    try:
        return str(rpc.get()["value"])
    except FluxError:
        return "-"


def find_attribute(flux: Flux, name: str) -> str | None:
    """Return the value of an attribute; None if it has none."""
    try:
        return flux.getattr(name)
    except FluxError:
        return None


COMMANDS = (
    Command("flux getattr", get_attribute, usage="name", summary="Print a broker attribute"),
    Command(
        "flux setattr", set_attribute, usage="name value", summary="Set a broker attribute", options=SETATTR_OPTIONS
    ),
    Command("flux lsattr", list_attributes, usage="[-v]", summary="List broker attributes", options=LSATTR_OPTIONS),
)
