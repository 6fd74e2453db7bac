"""`flux kvs namespace`, `version`, `wait`, `getroot` and `sync`: namespaces and their roots."""

from __future__ import annotations

from pytest_flux.cli.command import Command, CommandError, Context, explaining, naming
from pytest_flux.client.kvs import Kvs
from pytest_flux.options import Option
from pytest_flux.protocol import treeobj

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client import Flux
    from pytest_flux.options import Options

NAMESPACE = Option("namespace", "N", "NS", usage="Use this namespace (default: FLUX_KVS_NAMESPACE, or primary)")


def open_kvs(flux: Flux, options: Options) -> Kvs:
    """Return the namespace that the options name."""
    return Kvs(flux, options.get("namespace"))


CREATE_OPTIONS = (
    Option("owner", "o", "USERID", usage="Let another user own it"),
    Option("rootref", "r", "BLOBREF", usage="Begin with this root"),
)
GETROOT_OPTIONS = (
    NAMESPACE,
    Option("sequence", "s", usage="Print the sequence number"),
    Option("owner", "o", usage="Print the userid of the owner"),
    Option("blobref", "b", usage="Print the blobref"),
)

_UNKNOWN = 0xFFFFFFFF


def create(options: Options, context: Context) -> int:
    """Create namespaces."""
    if not options.arguments:
        raise context.command.usage_error()
    owner = options.get("owner", str(_UNKNOWN)) or ""
    if not (owner.isascii() and owner.isdigit()):
        raise CommandError("--owner requires an unsigned integer argument")
    with context.open() as flux:
        for name in options.arguments:
            with explaining(f"{name}"):
                Kvs(flux).create_namespace(name, owner=int(owner) & _UNKNOWN, rootref=options.get("rootref"))
    return 0


def remove(options: Options, context: Context) -> int:
    """Remove namespaces."""
    if not options.arguments:
        raise context.command.usage_error()
    with context.open() as flux:
        for name in options.arguments:
            with naming(name):
                Kvs(flux).remove_namespace(name)
    return 0


def list_namespaces(options: Options, context: Context) -> int:
    """Print a table of namespaces."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux, naming("flux_rpc_get_unpack"):
        found = Kvs(flux).namespaces()
    print(f"{'NAMESPACE':<36} {'OWNER':>10} {'FLAGS':>10}")
    for each in found:
        print(f"{each['namespace']:<36} {each['owner'] & _UNKNOWN:>10} 0x{each['flags']:08X}")
    return 0


def version(options: Options, context: Context) -> int:
    """Print the sequence number of the root."""
    with context.open() as flux, naming("flux_kvs_get_version"):
        print(open_kvs(flux, options).root().sequence)
    return 0


def wait(options: Options, context: Context) -> int:
    """Wait for a sequence number."""
    if not options.arguments:
        raise context.command.usage_error()
    if len(options.arguments) != 1:
        raise CommandError("wait: specify a version")
    digits = options.arguments[0]
    sequence = int(digits) if digits.isascii() and digits.isdigit() else 0
    with context.open() as flux, naming("flux_kvs_wait_version"):
        open_kvs(flux, options).wait_version(sequence)
    return 0


def getroot(options: Options, context: Context) -> int:
    """Print the root."""
    if options.arguments:
        raise context.command.usage_error()
    what = next((name for name in ("owner", "sequence", "blobref") if options.has(name)), "treeobj")
    with context.open() as flux, naming(f"flux_kvs_getroot_get_{what}"):
        answer = open_kvs(flux, options).getroot()
    if what == "owner":
        print(answer["owner"] & _UNKNOWN)
    elif what == "sequence":
        print(answer["rootseq"])
    elif what == "blobref":
        print(answer["rootref"])
    else:
        print(treeobj.dirref(answer["rootref"]).encode().decode())
    return 0


def sync(options: Options, context: Context) -> int:
    """Write to disk what was committed before."""
    if options.arguments:
        raise context.command.usage_error()
    with context.open() as flux, naming("flux_kvs_commit"):
        Kvs(flux).sync()
    return 0


GROUP = Command(
    "flux-kvs namespace",
    summary="Make, remove and list namespaces",
    subcommands=(
        Command(
            "flux-kvs namespace create",
            create,
            usage="[OPTIONS] name [name...]",
            summary="Make namespaces",
            options=CREATE_OPTIONS,
        ),
        Command("flux-kvs namespace remove", remove, usage="name [name...]", summary="Remove namespaces"),
        Command("flux-kvs namespace list", list_namespaces, usage="", summary="List namespaces"),
    ),
)
VERSION = Command("flux-kvs version", version, summary="Print the sequence number of the root", options=(NAMESPACE,))
WAIT = Command(
    "flux-kvs wait",
    wait,
    usage="[OPTIONS] version",
    summary="Wait for a sequence number of the root",
    options=(NAMESPACE,),
)
GETROOT = Command("flux-kvs getroot", getroot, summary="Print the root", options=GETROOT_OPTIONS)
SYNC = Command("flux-kvs sync", sync, summary="Have all that was committed be on disk")
