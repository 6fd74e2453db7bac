"""Processors, memories and PCI addresses of a topology."""

from __future__ import annotations

import errno

import pytest

from pytest_flux.bindings.ffi import NULL, ffi
from pytest_flux.bindings.hwloc_map import lib

_XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc.dtd">
<topology><object type="Machine">
  <object type="NUMANode" os_index="0" cpuset="0x0000000f"/>
  <object type="NUMANode" os_index="1" cpuset="0x00000001,0x00000000"/>
  <object type="Socket">
    <object type="Core" cpuset="0x00000005"/>
    <object type="Core" cpuset="0x0000000a"/>
    <object type="Core" cpuset="0x00000001,0x00000000"/>
  </object>
  <object type="PCIDev" pci_busid="0000:01:00.0">
    <object type="OSDev"><info name="Backend" value="CUDA"/></object>
    <object type="OSDev"><info name="Backend" value="OpenCL"/></object>
  </object>
  <object type="PCIDev" pci_busid="0000:02:00.0">
    <object type="OSDev"><info name="Backend" value="RSMI"/></object>
    <object type="OSDev"><info name="Backend" value="RSMI"/></object>
    <object type="OSDev"><info name="Backend" value="Net"/></object>
  </object>
</object></topology>"""
TOPOLOGY = lib.rhwloc_map_create(_XML)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ("0", (b"0,2", b"0")),
        ("0-2", (b"0-3,32", b"0-1")),
        ("3", (b"core 3 not found in node topology", errno.ENOENT)),
        ("x", (b"invalid core ID string: x", errno.EINVAL)),
    ],
)
def test_cores(cores: str, expected: tuple[object, object]) -> None:
    cpus, mems, error = ffi.new("char **"), ffi.new("char **"), ffi.new("flux_error_t[1]")
    if lib.rhwloc_map_cores(TOPOLOGY, error, cores.encode(), cpus, mems) < 0:
        assert (ffi.string(error[0].text), ffi.errno) == expected
    else:
        assert (cpus[0], mems[0]) == expected


def test_gpus_of_several_backends_count_once_and_parts_of_one_each() -> None:
    error = ffi.new("flux_error_t[1]")
    addresses = lib.rhwloc_map_gpu_pci_addrs(TOPOLOGY, b"0-2", error)
    assert addresses == [b"0000:01:00.0", b"0000:02:00.0", b"0000:02:00.0", NULL]
    assert lib.rhwloc_map_gpu_pci_addrs(TOPOLOGY, b"3", error) is NULL
    assert ffi.string(error[0].text) == b"gpu3 not found in local topology (gpu count=3)"


def test_counts() -> None:
    counts = [lib.rhwloc_map_count_type(TOPOLOGY, kind) for kind in (b"core", b"gpu", b"package", b"pu", b"nonsense")]
    assert counts == [3, 3, 1, 0, -1]


def test_what_is_no_topology_is_refused() -> None:
    for xml in (b"not xml", b"<topology/>", b"<other><object/></other>"):
        assert lib.rhwloc_map_create(xml) is NULL
