"""Where the stand-in does other than the C module, by name. Each of these is better."""

from __future__ import annotations

DIFFERENCES = {
    "signal handlers": (
        "A handler of the module `signal` runs during a blocking call. With the C module it runs after the call."
    ),
    "exceptions that end a program": (
        "KeyboardInterrupt and SystemExit, raised in a callback, leave `reactor_run`. The C module prints and drops"
        " them."
    ),
    "then() after get()": (
        "A future that has its response already does not keep `reactor_run` from returning. With the C module it"
        " waits for a response that has come."
    ),
    "then() after a timeout": (
        "A future whose `wait_for` has timed out can be given a `then`. The C module fails with EEXIST."
    ),
}
