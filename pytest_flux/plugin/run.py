"""What to do at each of pytest's hooks, and where the instances of a run are kept: with pytest's configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flux.plugin import options, reporting, workers
from pytest_flux.plugin.tracebacks import is_plain

if TYPE_CHECKING:
    from pytest_flux.instance.settings import Settings
    from pytest_flux.plugin.pool import Pool

__tracebackhide__ = is_plain
_POOL = pytest.StashKey["Pool"]()
_PC_FILES = ("lib/pkgconfig", "lib64/pkgconfig", "share/pkgconfig")


def pool_of(config: pytest.Config) -> Pool:
    """The instances of this pytest process."""
    pool = config.stash.get(_POOL, None)
    if pool is None:
        # Imported on first use: most runs of pytest do not use Flux.
        from pytest_flux.plugin.pool import Pool

        pool = config.stash[_POOL] = Pool(config)
    return pool


def pool_if_any(config: pytest.Config) -> Pool | None:
    """The instances of this pytest process; None if no test has needed one yet."""
    return config.stash.get(_POOL, None)


def enable_bindings() -> None:
    """Put the stand-in for libflux on sys.path. Raises UsageError without the right `flux-python`."""
    from pytest_flux import bindings

    try:
        bindings.enable()
    except ImportError as error:
        raise pytest.UsageError(f"--flux-bindings, flux_bindings: {error}") from None


def check(config: pytest.Config) -> None:
    """Raise UsageError for an invalid option or ini setting, before any test runs."""
    for setting in options.RUN:
        options.origin(config, setting)
    workers.check(config)
    if options.shape_of(config):
        from pytest_flux.plugin import shapes

        shapes.of_run(config)


def record(config: pytest.Config) -> None:
    """Record the run, if ``--flux-report`` wants a page of it. Raises UsageError."""
    if options.value_of(config, "report"):
        from pytest_flux.plugin import recording

        recording.register(config, lambda: pool_if_any(config))


def command(config: pytest.Config) -> int | None:
    """Execute an option that replaces the run of tests, if one is given, and return the exit code."""
    if config.getoption("flux_show_config"):
        from pytest_flux.plugin import shapes

        shapes.of_run(config)
        print(options.show(config))
        return 0
    if config.getoption("flux_sweep"):
        from pytest_flux.plugin.sweep import sweep

        # An option with an optional argument takes a path that follows it.
        extent = config.getoption("flux_sweep")
        if extent not in ("leftovers", "all") and not os.path.exists(extent):
            raise pytest.UsageError(f"--flux-sweep={extent}: did you mean --flux-sweep=all?")
        for line in sweep(kept=extent == "all"):
            print(line)
        return 0
    return None


def header(config: pytest.Config) -> str | None:
    """The engine that tests use by default, its version and its path."""
    from pytest_flux import __version__
    from pytest_flux.launcher.engine import find_engine
    from pytest_flux.launcher.spec import LaunchError

    broker = options.shape_of(config).get("broker", "auto")
    uri = options.value_of(config, "uri")
    if uri or options.value_of(config, "attach"):
        return f"flux: the instance at {uri or os.environ.get('FLUX_URI', '(FLUX_URI is not set)')}"
    try:
        engine = find_engine(broker, os.environ, rehearsal=True)
    except LaunchError as error:
        return f"flux: broker={broker}: {error}"
    if engine.kind == "embedded":
        return f"flux: embedded broker, pytest-flux {__version__}, {engine.broker}"
    return f"flux: flux-core {_version(engine.prefix(os.environ))}, {engine.broker}"


def _version(prefix: str) -> str:
    """Read the version of an installed Flux from its pkg-config file, without running Flux."""
    for directory in _PC_FILES if prefix else ():
        try:
            with open(f"{prefix}/{directory}/flux-core.pc", encoding="utf-8") as file:
                lines = dict(line.split(":", 1) for line in file if line.startswith("Version:"))
        except OSError:
            continue
        return lines.get("Version", "?").strip()
    return "of unknown version"


def generate(metafunc: pytest.Metafunc) -> None:
    """Multiply a test by the lists in its markers."""
    if "flux_instance" in metafunc.fixturenames:
        from pytest_flux.plugin import shapes

        shapes.generate(metafunc)


def parametrize_id(value: object, name: str) -> str | None:
    """The id of a parameter of the fixture flux_instance, if it is one."""
    if name != "flux_instance":
        return None
    from pytest_flux.plugin import shapes

    return shapes.identify_parameter(value)


def before(item: pytest.Item) -> None:
    """Prepare instances of wider scope when the setup of a test begins."""
    pool = pool_if_any(item.config)
    if pool is not None:
        pool.before(item)


def after(item: pytest.Item) -> None:
    """Check instances of wider scope after a test's fixtures are torn down. With ``--flux-strict``, leaks fail."""
    pool = pool_if_any(item.config)
    if pool is None:
        return
    _report_late(item.config, pool, everything=False)
    reporting.add_leaks(item, pool.after(item), strict=pool.strict)


def prestart(item: pytest.Item) -> None:
    """Start the instances of the next tests, when a test has its own."""
    count: int = options.value_of(item.config, "prestart")
    pool = pool_if_any(item.config)
    if pool is None or not count:
        return
    pool.prestart(list(_wanted(pool, item, item.stash[reporting.NEXT]))[:count])


def _wanted(pool: Pool, item: pytest.Item, nextitem: pytest.Item | None) -> list[Settings]:
    if options.value_of(item.config, "scope") != "function" or nextitem is None:
        return []
    items = item.session.items
    # A worker of pytest-xdist knows only the next test.
    upcoming = [nextitem] if hasattr(item.config, "workerinput") else items[items.index(item) + 1 :]
    count: int = options.value_of(item.config, "prestart")
    return [settings for each in upcoming[: 2 * count] for settings in _settings_ahead(pool, each)]


def _settings_ahead(pool: Pool, item: pytest.Item) -> list[Settings]:
    """The settings of the instance that a test will need, if they can be known now."""
    from pytest_flux.plugin import shapes

    if shapes.FIXTURE not in getattr(item, "fixturenames", ()):
        return []
    wanted = shapes.of_item(item)
    if wanted is None or wanted.settings.rundir is not None or wanted.settings.recovery:
        return []
    return [pool.settle(wanted.settings, item.nodeid)]


def finish_loop(config: pytest.Config) -> None:
    """Wait, after the last test, for the stops that were begun, and report their errors while they still count."""
    pool = pool_if_any(config)
    if pool is not None:
        _report_late(config, pool, everything=True)


def _report_late(config: pytest.Config, pool: Pool, *, everything: bool) -> None:
    for late in pool.collect(everything=everything):
        reporting.send_late(config, late)


def close(config: pytest.Config) -> None:
    """Stop everything that still runs at the end of the run."""
    pool = pool_if_any(config)
    if pool is not None:
        pool.close()
    import sys

    forkserver: Any = sys.modules.get("pytest_flux.launcher.forkserver")
    if forkserver is not None:
        forkserver.close()
    workers.close(config)
    if not hasattr(config, "workerinput") and config.pluginmanager.hasplugin("dsession"):
        workers.stop_shared(config)
