"""Keys of the key-value store. No RFC defines their form; flux-core's kvs_util.c does."""

from __future__ import annotations

SEPARATOR = "."
ROOT = "."
"""The key of the root directory."""


def normalize_key(key: str) -> str:
    """A key as the store keeps it: without doubled separators, and without any at the ends, except for the root."""
    while ".." in key:
        key = key.replace("..", SEPARATOR)
    if len(key) > 1 and key[0] == SEPARATOR:
        key = key[1:]
    if len(key) > 1 and key[-1] == SEPARATOR:
        key = key[:-1]
    return key


def join_key(directory: str, name: str) -> str:
    """The key of an entry of a directory."""
    directory = normalize_key(directory)
    return name if directory in (ROOT, "") else f"{directory}{SEPARATOR}{name}"
