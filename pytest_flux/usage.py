"""The help text of a command's options, laid out as Flux lays it out."""

from __future__ import annotations

import os

from pytest_flux.options import Option, parse_integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LEFT_MARGIN = 2


def option_lines(table: Sequence[Option], width: int) -> list[str]:
    """Lines for headings and options, by group; texts begin at column ``width`` and end at $COLUMNS."""
    columns = _terminal_columns()
    lines: list[str] = []
    for option in sorted(table, key=lambda option: option.group):
        if not option.name:
            lines += _wrap(option.usage, columns)
        elif not option.hidden:
            lines += _describe(option, width, columns)
    return lines


def _terminal_columns() -> int:
    columns = parse_integer(os.environ.get("COLUMNS", "80"))
    return columns if columns is not None and 16 < columns < 256 else 80


def _describe(option: Option, width: int, columns: int) -> list[str]:
    """The lines of help for one option: its forms on the left, what it does on the right."""
    short = f"-{option.key}, " if option.key else "    "
    forms = f"{'':{LEFT_MARGIN}}{short}--{option.name}" + ("=" + option.argument if option.argument else "")
    texts = _wrap(option.usage, max(columns - width, 10))
    lines = [f"{'':{width}}{text}" for text in texts]
    if len(forms) < width:
        lines[0] = f"{forms:{width}}{texts[0]}"
    else:
        lines.insert(0, forms if len(forms) <= columns else forms[: columns - 2] + "+")
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Fill lines of at most ``width`` characters, breaking a word only if it is alone too long."""
    lines = []
    while len(text) > width:
        space = text.rfind(" ", 1, width + 1)
        if space < 0:
            lines.append(text[: width - 1] + "-")
            text = text[width - 1 :]
        else:
            lines.append(text[:space].rstrip())
            text = text[space + 1 :]
    return [*lines, text]
