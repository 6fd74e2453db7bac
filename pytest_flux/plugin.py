"""What pytest loads: options, ini settings, marker, hooks and fixtures. The doors only, no logic."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_flux import hooks
from pytest_flux.fixtures import flux_instance, flux_instance_factory
from pytest_flux.session import options, reporting, run
from pytest_flux.session.stash import pool_if_any

__all__ = ["flux_instance", "flux_instance_factory"]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """The hooks that a conftest may implement."""
    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line options and ini settings, all with the one prefix."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """The marker, a memory for what reports bring, and a look at what was said."""
    options.check(config)
    config.addinivalue_line("markers", options.MARKER)
    config.pluginmanager.register(reporting.Memory(config), "flux-memory")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """``--flux-show-config`` and ``--flux-sweep``."""
    return run.command(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """The engine."""
    return run.header(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Lists in markers."""
    run.generate(metafunc)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Readable ids."""
    return run.parametrize_id(val, argname)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, None]:
    """The end of all tests, while errors still count."""
    yield
    run.finish_loop(session.config)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, None]:
    """Who runs."""
    reporting.begin(item, nextitem)
    yield
    reporting.end(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Instances of wider scope, before anything else of the test."""
    run.before(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Instances for the tests to come."""
    run.prestart(item)
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, None]:
    """What the test has left behind, when its own fixtures are gone."""
    outcome = yield
    try:
        run.after(item)
    except BaseException as error:  # noqa: BLE001 - handed on
        if outcome.exception is None:
            outcome.force_exception(error)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Logs and facts."""
    outcome = yield
    pool = pool_if_any(item.config)
    if pool is not None and outcome.exception is None:
        reporting.complete(pool, item, outcome.get_result())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - of pytest-xdist
    """Workers of pytest-xdist share instances."""
    from pytest_flux.session.shared import invite

    invite(node.config, node.workerinput)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """What was left behind."""
    reporting.summarize(terminalreporter, config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing is left."""
    run.close(config)
