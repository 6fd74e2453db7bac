r"""Write the page: one HTML file that has style, script and data in it, and that loads nothing.

The data are JSON in a script element of type ``application/json``. In such an element HTML knows no escapes: the
first ``</script``, or a ``<!--``, ends what the parser takes for data (HTML, section 4.12.1.3). So every ``<``, ``>``
and ``&`` is written as JSON's ``\u`` escape, which is possible because they only stand in strings; with it, output
of jobs or names of tests cannot become markup. The script puts texts into the page as text only, and the page's
Content-Security-Policy lets it load and send nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def write(path: str, data: dict[str, Any]) -> None:
    """Write the page for ``data`` (see ``page.js``) to ``path``, at once or not at all. Raises OSError."""
    directory = os.path.dirname(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".flux-report-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(render(data))
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def render(data: dict[str, Any]) -> str:
    """The text of the page."""
    page = _part("page.html")
    parts = {"STYLE": _part("page.css"), "SCRIPT": _part("page.js"), "DATA": encode(data)}
    for name, text in parts.items():
        before, after = page.split(f"@{name}@")
        page = f"{before}{text}{after}"
    return page


def encode(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(data, separators=(",", ":")).translate(_ESCAPES)


def _part(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()
