"""Output formats by name: built in, or from files in ``$XDG_CONFIG_HOME/flux`` and the system's directories."""

from __future__ import annotations

import os
import re
import sys

from pytest_flux.options import OptionExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Formats = Mapping[str, tuple[str, str]]


def find_format(text: str, builtin: Formats, tool: str, table: str = "") -> str:
    """Return the format that the argument of ``-o`` is or names.

    ``builtin`` has description and format by name, ``tool`` is the name of the file, ``table`` that of the table in
    it. "help" lists the formats, "get-config=NAME" prints one; both end the command (OptionExit). Raises ValueError.
    """
    if "{" in text:
        return text
    formats = {name: {"description": about, "format": form} for name, (about, form) in builtin.items()}
    formats.update(_configured(builtin, tool, table))
    if text == "help":
        print(f"\nConfigured {tool} output formats:\n")
        for name, entry in formats.items():
            print(f"  {name:<12} {entry['description']}" if "description" in entry else f"  {name:<12}")
        raise OptionExit(0, "")
    if text.startswith("get-config="):
        _show(text.partition("=")[2], formats, table)
        raise OptionExit(0, "")
    if text == "default":
        variable = f"{tool}{'-' + table if table else ''}".upper().replace("-", "_") + "_FORMAT_DEFAULT"
        text = os.environ.get(variable, text)
        if "{" in text:
            return text
    if text not in formats:
        meant = re.sub(r"\w+", r"{\g<0>}", text)
        raise ValueError(f"--format: No such format {text} (Did you mean '{meant}'?)")
    return formats[text]["format"]


def _show(name: str, formats: Mapping[str, Mapping[str, str]], table: str) -> None:
    if name not in formats:
        raise ValueError(f"--format: No such format {name}")
    print(f"[{table}.formats.{name}]" if table else f"[formats.{name}]")
    if "description" in formats[name]:
        print(f'description = "{formats[name]["description"]}"')
    print(f'format = "{formats[name]["format"]}"')


def _configured(builtin: Formats, tool: str, table: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path in _files(tool):
        config = load_file(path)
        if table:
            config = config.get(table, {})
        formats = config.get("formats", {})
        if not isinstance(formats, dict):
            raise ValueError(f"{path}: the 'formats' key must be a mapping")  # noqa: TRY004
        for name, entry in formats.items():
            if name in builtin:
                raise ValueError(f"{path}: override of builtin format '{name}' not permitted")
            if not isinstance(entry, dict):
                raise ValueError(f"{path}: 'formats.{name}' must be a mapping")  # noqa: TRY004
            if "format" not in entry:
                raise ValueError(f"{path}: formats.{name}: required key 'format' missing")
            if not isinstance(entry["format"], str):
                raise ValueError(f"{path}: formats.{name}: 'format' key must be a string")  # noqa: TRY004
            found[name] = {**found.get(name, {}), **entry}
    return found


def _files(tool: str) -> Iterator[str]:
    """Yield the configuration files that exist, the user's own last, because the last one wins."""
    for place in reversed(config_places()):
        for suffix in (".json", ".toml"):
            path = os.path.join(place, "flux", tool + suffix)
            if os.path.exists(path):
                yield path


def config_places() -> list[str]:
    """Return the directories of configuration, the user's own first (XDG Base Directory)."""
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [own, *(os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")]


def load_file(path: str) -> dict[str, Any]:
    """Return the object in a file of JSON or TOML. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        try:
            if path.endswith(".json"):
                import json

                config = json.load(file)
            else:
                config = load_toml(file.read().decode())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return config if isinstance(config, dict) else {}


def load_toml(text: str) -> dict[str, Any]:
    """Return the object in a TOML document. Raises ValueError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(text)
    return table
