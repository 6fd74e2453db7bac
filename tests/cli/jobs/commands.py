"""Running commands, and what they print, with times and identifiers made equal."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parent.parent.parent.parent
WAIT = 60.0

_MASKS = (
    # What argparse makes of options is its own: of mistakes, only the last line counts.
    (r"(?ms)^usage: .*?(?=^\S+( \S+)?: error: )", ""),
    (r"invalid choice: .*", "unknown"),
    (r"ƒ[1-9A-HJ-NP-Za-km-z]+", "ID"),
    (r"\b[0-9]+\.[0-9]+s?\b", "T"),
    (r" +ID", " ID"),
    (r" +T", " T"),
    (r"[0-9]{10,}", "N"),
    (r"\b[A-Z][a-z]{2}[0-9]{2} [0-9]{2}:[0-9]{2}\b", "WHEN"),
)


def mask(text: str) -> str:
    """``text`` without what no two runs have in common."""
    for pattern, replacement in _MASKS:
        text = re.sub(pattern, replacement, text)
    return text


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def shown(self) -> tuple[int, str, str]:
        return (self.code, mask(self.out), mask(self.err))


class Commands:
    """A `flux`, one instance, and a directory."""

    def __init__(self, program: tuple[str, ...], uri: str, directory: Path, path: str = "") -> None:
        self.program = program
        self.uri = uri
        self.directory = directory
        self.path = path or os.environ.get("PATH", os.defpath)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "FLUX_URI": self.uri, "PATH": self.path, "PYTHONPATH": str(_ROOT)}

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.program, *words],
            env=self.environ,
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def raw(self, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        with self.popen(*words) as process:
            out, err = process.communicate(stdin, timeout=WAIT)
        return process.returncode, out, err

    def __call__(self, *words: str, stdin: str = "") -> Result:
        code, out, err = self.raw(*words, stdin=stdin.encode())
        return Result(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def id(self, *words: str) -> str:
        """The job id that a command prints."""
        result = self(*words)
        assert result.code == 0, result
        return result.out.strip()
