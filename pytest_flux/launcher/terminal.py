"""The terminal on standard input: saved at the start, put back at the end, however that comes."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Terminal:
    """Settings and foreground process group as they were when a session started."""

    __slots__ = ("_group", "_settings", "_was_foreground")

    def __init__(self, settings: list[Any], group: int, was_foreground: bool) -> None:
        self._settings = settings
        self._group = group
        self._was_foreground = was_foreground

    @classmethod
    def save(cls) -> Terminal | None:
        """The terminal on standard input; None if there is none. From now on SIGTTOU is ignored if there is."""
        if not os.isatty(0):
            return None
        import termios

        try:
            settings = termios.tcgetattr(0)
        except termios.error:
            return None
        # The initial program may be a shell that makes its own group the foreground one. What restores the
        # settings afterwards is then in the background, and would be stopped for it.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        group = os.getpgrp()
        return cls(settings, group, _foreground_group() in (group, None))

    def restore(self) -> None:
        """Put settings and foreground group back, unless the terminal is in use by somebody else by now."""
        import termios

        foreground = _foreground_group()
        try:
            if foreground not in (self._group, None):
                # Either a group of the instance had it, and is dead, or a shell has: sent us to the background,
                # or started us there. Its settings are then none of our business.
                if not self._was_foreground or _exists(foreground):
                    return
                os.tcsetpgrp(0, self._group)
            # Not TCSADRAIN, which waits for output that may be held by ^S; not TCSAFLUSH, which throws away what
            # the user has typed ahead.
            termios.tcsetattr(0, termios.TCSANOW, self._settings)
        except (OSError, termios.error):
            # Hung up.
            return


def _foreground_group() -> int | None:
    """None if it is not our controlling terminal, so that there is no such thing."""
    try:
        return os.tcgetpgrp(0)
    except OSError:
        return None


def _exists(group: int | None) -> bool:
    if not group:
        return False
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
