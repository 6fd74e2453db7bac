"""Draws NAME.svg from NAME.dot. Run ``python docs/architecture/draw.py`` after a change to a .dot file.

GitHub shows SVG files in pages, but does not draw DOT. So the drawings are in the repository, and you need Graphviz
only to change one. The first line of a drawing has the hash of its source: a test sees whether it is up to date.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def stamp(source: bytes) -> str:
    """Return the first line of the drawing of a source."""
    return f"<!-- sha256 of the source: {hashlib.sha256(source).hexdigest()} -->\n"


def draw(source: bytes) -> str:
    """Return the drawing of a source. CalledProcessError if Graphviz finds a mistake in it."""
    done = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, check=True)
    svg = done.stdout.decode()
    # Without the prolog, which names the version of Graphviz.
    return stamp(source) + svg[svg.index("<svg") :]


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.dot")):
        path.with_suffix(".svg").write_text(draw(path.read_bytes()), encoding="utf-8")
