"""Open a page in headless Chromium, without a network, and look at what its script has made of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=1400,1500"
).split()
_CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


class Shown(NamedTuple):
    """A page as it is shown: its DOM, and what its script has written to the console."""

    dom: str
    console: list[str]

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.dom))


def open_page(path: Path, profile: Path, fragment: str = "", screenshot: Path | None = None) -> Shown:
    """Open a page. Skips where there is no Chromium. With PYTEST_FLUX_SHOTS, a directory, pictures stay there."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on PATH")
    # The time that the page may take is virtual, so that a slow machine does not cut it short.
    argv = [program, *_FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
    shots = os.environ.get("PYTEST_FLUX_SHOTS")
    if shots and screenshot is not None:
        _run([*argv, f"--screenshot={shots}/{screenshot}", f"{path.as_uri()}{fragment}"])
    done = _run([*argv, "--dump-dom", f"{path.as_uri()}{fragment}"])
    return Shown(done.stdout, _CONSOLE.findall(done.stderr))


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def with_script(path: Path, script: str) -> Path:
    """A copy of a page that runs one more script at its end, and shows its errors as others."""
    copy = path.with_name(f"driven-{path.name}")
    text = path.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    copy.write_text(text, encoding="utf-8")
    return copy
