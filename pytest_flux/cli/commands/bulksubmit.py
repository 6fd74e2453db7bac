"""`flux bulksubmit`: submit a job for each of a list of inputs."""

from __future__ import annotations

import sys

from pytest_flux.cli.arguments import ArgumentCommand
from pytest_flux.cli.commands.submit_options import BULK, COMMON, REWRITES, TASKS
from pytest_flux.cli.commands.submit_request import Request
from pytest_flux.cli.commands.submit_session import SubmitSession, copies_of
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.cli.commands.command import Context
    from pytest_flux.options import Options

OPTIONS = (
    *COMMON,
    *TASKS,
    *BULK,
    Option("shuffle", usage="Submit in random order"),
    Option("sep", argument="STRING", usage="What separates inputs: newline by default, 'none' for any white space"),
    Option("define", argument="NAME=CODE", usage="Name a Python expression on an input x, for {0.NAME}"),
)
_MARK = ":::"


def run(options: Options, context: Context) -> int:
    """Fill in every combination of inputs, and submit all."""
    request = Request.of(options, OPTIONS)
    methods = dict(_method(text) for text in request.all("define"))
    separator = (request.get("sep") or "\n").encode().decode("unicode_escape")
    template, lists, links = split_inputs(request.command, None if separator.lower() == "none" else separator)
    request.command = template or ["{}"]
    requests = [
        request.filled(inputs, methods, seq=number, seq1=number + 1, cc="{cc}")
        for number, inputs in enumerate(combine(lists, links))
    ]
    if request.has("shuffle"):
        import random

        random.shuffle(requests)
    total = sum(len(copies_of(each)) for each in requests)
    if not total:
        raise ValueError("no jobs provided for bulk submission")
    dry = request.has("dry-run")
    if dry and request.has("progress"):
        print(f"bulksubmit: submitting a total of {total} jobs")
    session = SubmitSession(context, request, total)
    for each in requests:
        if dry or request.has("verbose"):
            print(f"bulksubmit: submit {each}")
        if not dry:
            session.submit(each)
    return session.finish()


def _method(text: str) -> tuple[str, str]:
    name, equals, code = text.partition("=")
    if not equals:
        raise ValueError(f"--define: '{text}' is not NAME=CODE")
    try:
        compile(code, name, "eval")
    except SyntaxError as error:
        raise ValueError(f"--define: {name}: {error}") from None
    return name, code


def split_inputs(
    words: list[str], separator: str | None
) -> tuple[list[str], list[list[str]], list[tuple[int, list[str]]]]:
    """The command, its lists of inputs, and lists that are linked to others, with their places.

    ``:::`` begins a list, ``::::`` names a file of inputs, and a ``+`` at the end links the list to those before.
    Without any, inputs come from stdin.
    """
    starts = [index for index, word in enumerate(words) if word.startswith(_MARK)]
    command = words[: starts[0]] if starts else words
    lists: list[list[str]] = []
    links: list[tuple[int, list[str]]] = []
    for place, start in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else len(words)
        mark, inputs = words[start], words[start + 1 : end]
        if mark.startswith(_MARK + ":"):
            if len(inputs) != 1:
                raise ValueError("Multiple args not allowed after ::::")
            inputs = _read_inputs(inputs[0], separator)
        if mark.endswith("+"):
            links.append((place, inputs))
        elif inputs:
            lists.append(inputs)
    if not lists:
        lists.append(_read_inputs("-", separator))
    return command, lists, links


def _read_inputs(path: str, separator: str | None) -> list[str]:
    if path == "-":
        text = sys.stdin.read()
    else:
        with open(path) as file:
            text = file.read()
    return [item for item in text.split(separator) if item]


def combine(lists: list[list[str]], links: list[tuple[int, list[str]]]) -> list[list[str]]:
    """Every combination of the inputs; those of linked lists go round."""
    from itertools import product

    combinations = [list(each) for each in product(*lists)]
    for place, inputs in links:
        for number, combination in enumerate(combinations):
            combination.insert(place, inputs[number % len(inputs)])
    return combinations


COMMAND = ArgumentCommand(
    "flux bulksubmit",
    run,
    usage="[OPTIONS...] COMMAND [ARGS...]",
    summary="Submit a job for each input",
    options=OPTIONS,
    permute=False,
    rewrites=REWRITES,
)
