"""The progress bar of `submit --progress` and `watch --progress`, on the last line of a terminal."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.protocol.eventlog import Event

_BLOCKS = " ▏▎▍▌▋▊▉█"
_INTERVAL = 0.25


class Progress:
    """Counts jobs by what they are doing, and draws that if it is to be ``shown``."""

    def __init__(
        self,
        total: int,
        *,
        shown: bool,
        jobs_per_second: bool = False,
        submission_only: bool = False,
        started: float | None = None,
    ) -> None:
        self.interval = _INTERVAL if shown else None
        self._total = total
        self._shown = shown
        self._rate = jobs_per_second
        self._submission_only = submission_only
        self._started = time.time() if started is None else started
        self._states: dict[int, str] = {}
        self._count = 0
        self._failed_submissions = 0

    def begin(self, jobid: int) -> None:
        """A job is pending."""
        self._states[jobid] = "PD"
        self._total = max(self._total, len(self._states))

    def submitted(self) -> None:
        """A job has been submitted, which is all that is waited for."""
        self._count += 1
        self.draw()

    def failed_to_submit(self) -> None:
        """A job has been refused."""
        self._count += 1
        self._failed_submissions += 1

    def event(self, jobid: int, event: Event) -> None:
        """Something has happened to a job."""
        name, context, state = event["name"], event.get("context", {}), self._states.get(jobid)
        if name == "alloc" and state == "PD":
            self._states[jobid] = "R"
        elif name == "exception" and context["severity"] == 0 and state == "PD":
            self._states[jobid] = "F"
        elif name == "finish" and state in ("PD", "R"):
            self._states[jobid] = "F" if context["status"] else "CD"

    def done(self, jobid: int) -> None:
        """A job needs no more watching."""
        self._count += 1

    def line(self, width: int) -> str:
        """The bar, as wide as the terminal."""
        share = min(self._count / self._total, 1.0) if self._total else 0.0
        elapsed = time.time() - self._started
        after = f"{100 * share:5.1f}% "
        if self._rate:
            after += f"{self._count / elapsed if elapsed else 0.0:4.1f} job/s"
        else:
            minutes, seconds = divmod(round(elapsed), 60)
            after += f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        before = f"Submitting {self._total} jobs: " if self._submission_only else self._counts()
        room = max(width - len(before) - len(after) - 2, 0)
        eighths = int(room * (len(_BLOCKS) - 1) * share)
        full, part = divmod(eighths, len(_BLOCKS) - 1)
        bar = _BLOCKS[-1] * full + (_BLOCKS[part] if part else "")
        return f"{before}│{bar:<{room}}│{after}"

    def _counts(self) -> str:
        states = list(self._states.values())
        failed = states.count("F") + self._failed_submissions
        counts = {name: states.count(name) for name in ("PD", "R", "CD")} | {"F": failed}
        return "".join(f"{name}:{count:<3} " for name, count in counts.items())

    def draw(self) -> None:
        """Show the bar, in the last line; the lines above scroll on without it."""
        if self._shown:
            columns, lines = _terminal_size()
            self._write(f"\0337\033[r\0338\033D\033M\0337\033[1;{lines - 1}r\0338")
            self._write(f"\0337\033[{lines};1H\033[2K\033[?7l\033[0m{self.line(columns)}\033[?7h\0338")

    def end(self) -> None:
        """Leave the bar as it is at the end, and give the line back."""
        if self._shown:
            columns, lines = _terminal_size()
            self._write(f"\0337\033[{lines};1H\033[K\033[r\0338{self.line(columns)}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _terminal_size() -> tuple[int, int]:
    import os

    try:
        return os.get_terminal_size(1)
    except OSError:
        return 80, 24
