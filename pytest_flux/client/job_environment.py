"""The environment and the resource limits that a job inherits from its submitter, by the rules of `flux submit`."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Environment = dict[str, str]

_NOT_INHERITED = ("-memlock", "-ofile", "-msgqueue", "-nice", "-rtprio", "-rttime", "-sigpending")
_UNLIMITED = ("unlimited", "infinity", "inf")


def filter_environment(rules: Iterable[str], environ: Mapping[str, str]) -> tuple[Environment, Environment]:
    """Apply ``--env`` rules. Returns the environment, and the variables with templates that the shell expands.

    ``-PATTERN`` removes, ``^FILE`` reads further rules, ``NAME=VALUE`` sets, with ``$NAME`` expanded, and a bare
    ``PATTERN`` takes from our own environment. Raises ValueError.
    """
    result, templates = dict(environ), {}
    for rule in rules:
        name, equals, value = rule.partition("=")
        if rule.startswith("-"):
            matches = _matcher(rule[1:])
            result = {key: value for key, value in result.items() if not matches(key)}
        elif rule.startswith("^"):
            result, more = filter_environment(_read_rules(rule[1:]), result)
            templates.update(more)
        elif not equals:
            matches = _matcher(rule)
            for key in os.environ:
                if matches(key):
                    result.setdefault(key, os.environ[key])
        elif "{{" in value:
            templates[name] = value
        else:
            result[name] = _expand(value, result, rule)
    return result, templates


def _matcher(pattern: str):  # type: ignore[no-untyped-def]  # noqa: ANN202, the type is re's own
    """A shell pattern, or, between slashes, a regular expression, as function."""
    if pattern.startswith("/"):
        pattern = pattern[1:].rstrip("/")
    else:
        from fnmatch import translate

        pattern = translate(pattern)
    try:
        return re.compile(pattern).match
    except re.error as error:
        raise ValueError(f"invalid pattern '{pattern}': {error}") from None


def _read_rules(path: str) -> list[str]:
    try:
        with open(os.path.expanduser(path)) as file:
            return [line.strip() for line in file]
    except OSError as error:
        raise ValueError(f"--env: {error}") from None


def _expand(value: str, environment: Environment, rule: str) -> str:
    if "$" not in value:
        return value
    from string import Template

    try:
        return Template(value).substitute({**os.environ, **environment})
    except ValueError:
        raise ValueError(f"--env: Unable to substitute {rule}") from None
    except KeyError as error:
        raise ValueError(f"--env: Variable {error} not found in {rule}") from None


def filter_limits(rules: Iterable[str]) -> dict[str, int]:
    """The soft limits of a job, by their names in lower case; -1 is unlimited.

    Without rules they are ours, except those that differ by host. ``-PATTERN`` removes some, ``NAME`` adds one, and
    ``NAME=VALUE`` sets it. Raises ValueError.
    """
    limits = _current_limits()
    for rule in (*_NOT_INHERITED, *(part for each in rules for part in each.split(","))):
        name, equals, value = rule.partition("=")
        if rule.startswith("-"):
            matches = _matcher(rule[1:].lower())
            limits = {key: value for key, value in limits.items() if not matches(key)}
        elif not equals:
            limits.update(_matching_limits(name))
        elif name.lower() not in _current_limits():
            raise ValueError(f'Invalid rlimit "{name}"')
        elif value in _UNLIMITED:
            limits[name.lower()] = -1
        else:
            try:
                limits[name.lower()] = int(value)
            except ValueError:
                raise ValueError(f"Invalid value in {rule}") from None
    return limits


def _current_limits() -> dict[str, int]:
    import resource

    prefix = "RLIMIT_"
    names = [name for name in vars(resource) if name.startswith(prefix)]
    return {name[len(prefix) :].lower(): resource.getrlimit(getattr(resource, name))[0] for name in names}


def _matching_limits(name: str) -> dict[str, int]:
    matches = _matcher(name.lower())
    found = {key: value for key, value in _current_limits().items() if matches(key)}
    if not found:
        raise ValueError(f'No corresponding rlimit matching "{name.lower()}"')
    return found
