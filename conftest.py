"""What every test of this repository runs with: pytest's runner of inner sessions, and the leak check."""

from __future__ import annotations

pytest_plugins = ["pytester", "tests.leaks"]
