"""pytest's side: the hooks and fixtures that pytest finds here. They call other modules and have no logic."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from pytest_flux.plugin import hooks, options, reporting, run, terminal, workers
from pytest_flux.plugin.fixtures import flux_executor, flux_instance, flux_instance_async, flux_instance_factory

__all__ = ["flux_executor", "flux_instance", "flux_instance_async", "flux_instance_factory"]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that a conftest may implement."""
    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line options and ini settings."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Make `import flux` work before the first conftest is imported."""
    if options.wants_bindings(early_config):
        run.enable_bindings()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options, add the marker and collect what reports say."""
    run.check(config)
    workers.settle_here(config)
    config.addinivalue_line("markers", options.MARKER)
    config.pluginmanager.register(reporting.Memory(config), "flux-memory")
    run.record(config)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Do what ``--flux-show-config`` and ``--flux-sweep`` ask for."""
    return run.command(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the engine."""
    return run.header(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply tests by the lists in their markers."""
    run.generate(metafunc)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Give parameters readable ids."""
    return run.parametrize_id(val, argname)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, None]:
    """Wait, after the last test, for instances that are being stopped: their errors still count."""
    yield
    run.finish_loop(session.config)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, None]:
    """Note which test runs."""
    reporting.begin(item, nextitem)
    yield
    reporting.end(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Prepare instances of wider scope, before any other setup of the test."""
    run.before(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Start instances for the next tests."""
    run.prestart(item)
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, None]:
    """Check, after the fixtures of the test are torn down, what it has left behind."""
    outcome = yield
    try:
        run.after(item)
    except BaseException as error:  # noqa: BLE001 - handed on
        if outcome.exception is None:
            outcome.force_exception(error)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add logs and facts to a report."""
    reporting.skip_without_bindings(call)
    outcome = yield
    pool = run.pool_if_any(item.config)
    if pool is not None and outcome.exception is None:
        reporting.complete(pool, item, outcome.get_result())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """With ``--flux-workers``, ``-n auto`` is the number of cores of the instance."""
    return workers.count(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[Any]) -> None:
    """With ``--flux-workers``, start the workers of pytest-xdist as a job."""
    workers.start(config, specs)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:  # noqa: ANN401 - of pytest-xdist
    """Say how a worker that is a task of a job has ended."""
    workers.explain(report)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - of pytest-xdist
    """Let workers of pytest-xdist share instances."""
    workers.invite(node.config, node.workerinput)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """List what tests have left behind, and dumps."""
    reporting.summarize(terminalreporter, config)
    terminal.list_kept(terminalreporter, config)


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Show how to attach a second terminal to the instances of a test that a debugger has stopped."""
    pool = run.pool_if_any(config)
    if pool is not None:
        terminal.show_in_debugger(config, [(held.name, held.instance) for held in pool.held])


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, Any, None]:
    """Group tests by shape, where pytest-xdist distributes groups."""
    is_grouped = getattr(config.option, "loadgroup", False)
    if is_grouped:
        workers.group(items)
    yield
    if is_grouped:
        workers.name_groups(items)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop everything that still runs."""
    run.close(config)
