"""The frames of ours that pytest leaves out of a report: those of an error whose text says all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest._code import ExceptionInfo


def is_plain(info: ExceptionInfo[BaseException]) -> bool:
    """Whether an error is made for users of the plugin, who do not need our frames.

    For ``__tracebackhide__`` at the top of a module. Any other error there is our mistake, and is shown with frames.
    """
    import pytest

    made_for_people = (pytest.UsageError, pytest.fail.Exception, pytest.skip.Exception)
    return isinstance(info.value, made_for_people) or type(info.value).__module__.startswith("pytest_flux.")
