"""What ends a job shell before its time."""

from __future__ import annotations


class ShellFailure(Exception):
    """A shell cannot go on. The text goes into the job's output, and into the note of the exception that follows.

    ``code`` is the shell's exit code. ``wait_status`` is that of the task at fault, where there is one.
    """

    def __init__(self, text: str, code: int = 1, *, component: str = "", wait_status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.component = component
        self.wait_status = wait_status
