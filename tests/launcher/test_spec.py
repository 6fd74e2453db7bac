from __future__ import annotations

import math
import pickle

import pytest

from pytest_flux.launcher.spec import LaunchError, LaunchSpec, hostnames, validate
from pytest_flux.record import NamedTuple


class Point(NamedTuple):
    """Two fields, one with a default, and behaviour."""

    x: int
    y: int = 2

    @property
    def total(self) -> int:
        return self.x + self.y

    @classmethod
    def origin(cls) -> Point:
        return cls(0, 0)


def test_records_are_named_tuples() -> None:
    point = Point(1)
    assert point == (1, 2)
    assert point.total == 3
    assert point._replace(y=5) == Point(x=1, y=5)
    assert repr(point) == "Point(x=1, y=2)"
    assert Point.origin() == (0, 0)
    assert isinstance(Point.origin(), Point)
    assert pickle.loads(pickle.dumps(point)) == point
    assert Point.__doc__ == "Two fields, one with a default, and behaviour."
    with pytest.raises(AttributeError):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.z = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]


def test_the_default_is_normal_mode() -> None:
    spec = LaunchSpec()
    validate(spec)
    assert spec.size is None
    assert (spec.exit_timeout, spec.exit_mode, spec.start_mode) == (20.0, "any", "all")


@pytest.mark.parametrize(
    "spec",
    [
        LaunchSpec(size=1),
        LaunchSpec(size=2, hosts="a,b", exit_mode="leader", start_mode="leader", exit_timeout=math.inf),
        LaunchSpec(size=4, pmi_clique="per-broker", rundir="/nowhere", exit_timeout=0),
        LaunchSpec(size=4, pmi_clique="[[0,2,2,1]]", test_options=("test-pmi-clique",)),
        LaunchSpec(size=4, pmi_clique=""),
        LaunchSpec(wrap=("gdb",), recovery=True, verbose=3),
    ],
)
def test_what_is_accepted(spec: LaunchSpec) -> None:
    validate(spec)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (LaunchSpec(size=0), "--test-size argument must be > 0"),
        (LaunchSpec(size=-3), "--test-size argument must be > 0"),
        (LaunchSpec(size=1, exit_mode="x"), "unknown --test-exit-mode: x"),
        (LaunchSpec(size=1, start_mode=""), "unknown --test-start-mode: "),
        (LaunchSpec(exit_mode="x", size=0), "unknown --test-exit-mode: x"),
        (LaunchSpec(size=1, exit_timeout=-1), "Invalid argument for option 'test-exit-timeout': '-1'"),
        (LaunchSpec(size=1, exit_timeout=math.nan), "Invalid argument for option 'test-exit-timeout': 'nan'"),
        (LaunchSpec(size=2, hosts="foo"), "--test-hosts hostlist has incorrect size"),
        (LaunchSpec(size=1, hosts=""), "--test-hosts hostlist has incorrect size"),
        (LaunchSpec(size=2, hosts="foo]"), "could not decode --test-hosts hostlist"),
        (LaunchSpec(size=1, pmi_clique="bad"), "test-pmi-clique: error parsing range 'bad'"),
        (LaunchSpec(hosts="foo"), "--test-hosts only works with --test-size"),
        (LaunchSpec(exit_timeout=1), "--test-exit-timeout only works with --test-size"),
        (LaunchSpec(rundir="/tmp"), "--test-rundir only works with --test-size"),
        (LaunchSpec(rundir="/tmp", rundir_create=True), "--rundir only works with --test-size"),
        (LaunchSpec(test_options=("test-exit-mode",)), "--test-exit-mode only works with --test-size"),
    ],
)
def test_what_is_refused(spec: LaunchSpec, text: str) -> None:
    with pytest.raises(LaunchError) as caught:
        validate(spec)
    assert str(caught.value) == text


def test_no_test_options_were_given() -> None:
    # --killer-timeout is no option of test mode, although it sets the same timeout.
    validate(LaunchSpec(exit_timeout=3, test_options=()))


def test_hostnames() -> None:
    assert hostnames("fake[0-2]") == ("fake0", "fake1", "fake2")
    assert hostnames("a,b") == ("a", "b")
    assert hostnames("fake[0-2]") == ("fake0", "fake1", "fake2")
