"""Save the terminal on standard input at the start, and restore it at the end, whatever ends the session."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Terminal:
    """Settings and foreground process group of the terminal at the start of a session."""

    __slots__ = ("_group", "_settings", "_was_foreground")

    def __init__(self, settings: list[Any], group: int, was_foreground: bool) -> None:
        self._settings = settings
        self._group = group
        self._was_foreground = was_foreground

    @classmethod
    def save(cls) -> Terminal | None:
        """Save the terminal on standard input, and ignore SIGTTOU from now on; None if there is no terminal."""
        if not os.isatty(0):
            return None
        import termios

        try:
            settings = termios.tcgetattr(0)
        except termios.error:
            return None
        # The initial program may be a shell that makes its own group the foreground one. The process that restores
        # the settings is then in the background, and SIGTTOU would stop it.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        group = os.getpgrp()
        return cls(settings, group, _foreground_group() in (group, None))

    def restore(self) -> None:
        """Restore settings and foreground group, unless another process group uses the terminal by now."""
        import termios

        foreground = _foreground_group()
        try:
            if foreground not in (self._group, None):
                # Either a group of the instance had the terminal and is dead, or a shell has it, because we were
                # moved to or started in the background. Then we must not change it.
                if not self._was_foreground or _exists(foreground):
                    return
                os.tcsetpgrp(0, self._group)
            # TCSADRAIN would wait for output that ^S may hold, and TCSAFLUSH would drop what the user has typed.
            termios.tcsetattr(0, termios.TCSANOW, self._settings)
        except (OSError, termios.error):
            # The terminal was hung up.
            return


def _foreground_group() -> int | None:
    """The foreground group; None if this is not our controlling terminal."""
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
