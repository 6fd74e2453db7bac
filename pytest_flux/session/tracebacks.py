"""Which of our frames pytest leaves out of a report: those of an error that says itself what is the matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest._code import ExceptionInfo


def is_plain(info: ExceptionInfo[BaseException]) -> bool:
    """Whether an error is for people who use the plugin, and needs no tour of our modules.

    For ``__tracebackhide__`` at the top of a module. Whatever else is raised there is a mistake of ours, and shown.
    """
    import pytest

    made_for_people = (pytest.UsageError, pytest.fail.Exception, pytest.skip.Exception)
    return isinstance(info.value, made_for_people) or type(info.value).__module__.startswith("pytest_flux.")
