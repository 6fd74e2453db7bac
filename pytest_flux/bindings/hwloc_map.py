"""What hwloc says of a node: flux-core's ``rhwloc_map.h``, which has no manual page.

``flux.sdexec.map`` asks it for the processors, memories and PCI addresses of cores and GPUs. It needs no hwloc: the
topology comes as hwloc's XML, in which objects stand in the order of their logical indices.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

from pytest_flux.bindings.ffi import NULL, chars, ctype, fail, ffi, put, set_error, text
from pytest_flux.bindings.library import F, Library
from pytest_flux.bindings.library import function as _function
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.idset import decode_idset, encode_idset

_COMPUTING = ("CUDA", "NVML", "OpenCL", "RSMI")
_TYPES = ("machine", "numanode", "package", "die", "group", "core", "pu", "bridge", "pcidev", "osdev", "misc")

lib = Library("")


def function(signature: str) -> Callable[[F], F]:
    """Make a function one of this library."""
    return _function(signature, lib)


class Topology:
    """A ``rhwloc_map_t``. Raises ValueError if the XML is not that of hwloc."""

    ctype = ctype("rhwloc_map_t *")

    def __init__(self, xml: str) -> None:
        try:
            self.root = ElementTree.fromstring(xml)
        except ElementTree.ParseError as error:
            raise ValueError(str(error)) from None
        if self.root.tag != "topology" or self.root.find("object") is None:
            raise ValueError("no topology of hwloc")

    def objects(self, kind: str) -> list[ElementTree.Element]:
        """The objects of one type, in the order of their logical indices."""
        names = (kind, "socket") if kind == "package" else (kind,)  # as hwloc 1 called it
        return [one for one in self.root.iter("object") if one.get("type", "").lower() in names]

    def gpus(self) -> list[str]:
        """The PCI addresses of what computes. A device that several backends know counts for the first of them."""
        found: list[tuple[str, str]] = []
        for address, device in self._devices(self.root, ""):
            infos = {info.get("name"): info.get("value", "") for info in device.findall("info")}
            backend = infos.get("Backend", "")
            known = any(address == other and backend != other_backend for other, other_backend in found if address)
            if backend in _COMPUTING and not (known and "FLUX_HWLOC_GPU_NO_DEDUP" not in os.environ):
                found.append((address, backend))
        return [address for address, _ in found]

    def _devices(self, within: ElementTree.Element, address: str) -> Iterator[tuple[str, ElementTree.Element]]:
        """The operating system's devices, each with the address of the PCI device around it."""
        for one in within.findall("object"):
            if one.get("type") == "OSDev":
                yield address, one
            yield from self._devices(one, one.get("pci_busid", address))


def _bits(mask: str | None) -> set[int]:
    """The set for hwloc's ``0x00000001,0x0000ffff``: words of 32 bits, the highest first."""
    value = 0
    for word in (mask or "0").split(","):
        value = value << 32 | int(word or "0", 16)
    return {bit for bit in range(value.bit_length()) if value >> bit & 1}


@function("char * -> rhwloc_map_t *")
def rhwloc_map_create(xml: Any) -> Any:
    """Read a topology: rhwloc_map.h."""
    try:
        return Topology(text(xml) or "")
    except ValueError:
        return fail(errno.EINVAL, NULL)


@function("rhwloc_map_t * -> void")
def rhwloc_map_destroy(m: Any) -> None:
    """Drop a topology: rhwloc_map.h."""


@function("rhwloc_map_t *, char * -> int")
def rhwloc_map_count_type(m: Any, type: Any) -> int:
    """How many objects of a type there are: rhwloc_map.h."""
    kind = (text(type) or "").lower()
    if m is not NULL and kind == "gpu":
        return len(m.gpus()) or -1
    if m is NULL or kind not in _TYPES:
        return int(fail(errno.EINVAL))
    return len(m.objects(kind))


@function("rhwloc_map_t *, flux_error_t *, char *, char **, char ** -> int")
def rhwloc_map_cores(m: Any, errp: Any, cores: Any, cpus_out: Any, mems_out: Any) -> int:
    """The processors and memories of cores, as idsets: rhwloc_map.h."""
    if NULL in (m, cores, cpus_out, mems_out):
        set_error(errp, "Invalid argument")
        return int(fail(errno.EINVAL))
    words, cpus, there = text(cores) or "", set(), m.objects("core")
    try:
        wanted = decode_idset(words)
    except ProtocolError:
        set_error(errp, f"invalid core ID string: {words}")
        return int(fail(errno.EINVAL))
    for core in wanted:
        if core >= len(there):
            set_error(errp, f"core {core} not found in node topology")
            return int(fail(errno.ENOENT))
        cpus |= _bits(there[core].get("cpuset"))
    nodes = [node for node in m.objects("numanode") if cpus & _bits(node.get("cpuset"))]
    put(cpus_out, chars(encode_idset(sorted(cpus))))
    put(mems_out, chars(encode_idset(sorted({int(node.get("os_index", "0")) for node in nodes}))))
    return 0


@function("rhwloc_map_t *, char *, flux_error_t * -> char **")
def rhwloc_map_gpu_pci_addrs(m: Any, gpus: Any, errp: Any) -> Any:
    """The PCI addresses of GPUs, with NULL at the end: rhwloc_map.h."""
    if NULL in (m, gpus):
        set_error(errp, "Invalid argument")
        return fail(errno.EINVAL, NULL)
    words, there = text(gpus) or "", m.gpus()
    try:
        wanted = decode_idset(words)
    except ProtocolError:
        set_error(errp, f'idset_decode("{words}") failed')
        return fail(errno.EINVAL, NULL)
    for gpu in wanted:
        if gpu >= len(there):
            set_error(errp, f"gpu{gpu} not found in local topology (gpu count={len(there)})")
            return fail(ffi.errno, NULL)
        if not there[gpu]:
            set_error(errp, f"Failed to find PCI ancestor of GPU (logical id={gpu})")
            return fail(errno.ENODEV, NULL)
    return [*(chars(there[gpu]) for gpu in wanted), NULL]


@function("char ** -> void")
def rhwloc_map_strv_free(strv: Any) -> None:
    """Drop an array: rhwloc_map.h."""


@function("void * -> void")
def free(ptr: Any) -> None:
    """Drop a string: free(3)."""
