"""Builds manual pages and completion scripts into wheels: they are written from the tables of options."""

from __future__ import annotations

import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds what ``docs/manual.py`` writes to the files that go below the prefix of an installation."""

    _made = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files."""
        self._made = tempfile.mkdtemp(prefix="pytest-flux-")
        sys.path.insert(0, self.root)
        try:
            runpy.run_path(str(Path(self.root) / "docs" / "manual.py"))["write"](Path(self._made))
        finally:
            sys.path.remove(self.root)
        build_data["shared_data"][f"{self._made}/share"] = "share"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove them again."""
        shutil.rmtree(self._made, ignore_errors=True)
