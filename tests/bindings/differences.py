"""Where the stand-in does other than the C module, by name: each of these is better, and no program can miss the other."""

from __future__ import annotations

DIFFERENCES = {
    "signal_handler": "a handler of the module signal runs during a blocking call; with the C module, only after it",
    "base_exception": "KeyboardInterrupt and SystemExit in a callback leave reactor_run; the C module prints and drops them",
}
