"""Manual pages, in the language of man(7), written from the tables of options."""

from __future__ import annotations

from pytest_flux.cli.topics import Topic, flux_start_topic, flux_topic
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ABOUT_FLUX = """\
In an instance of pytest-flux with the embedded broker, this is the command on PATH. It has commands and options of
flux-core 0.88, in pure Python, and works with real brokers as well. The variable FLUX_URI says which instance it acts
on; flux-start(1) sets it."""
_ABOUT_START = """\
With --test-size=N, flux-start starts the N brokers of an instance here, runs the command in the instance, and ends
it. Without a command it opens a shell. Without --test-size, it becomes one broker of an instance that Slurm, Hydra
or Flux starts. It needs no installed Flux: if there is none, an embedded broker in Python runs.

The exit code is that of the command, or 128+n if signal n has ended the instance. SIGTERM, SIGINT and SIGHUP shut the
instance down in order; the second one kills it. Nothing is left, even after SIGKILL."""


def pages() -> Iterator[tuple[str, str]]:
    """The pages of the commands: file name and text."""
    flux = flux_topic()
    yield "flux.1", _flux_page(flux)
    yield "flux-start.1", command_page(flux_start_topic())
    for topic in flux.subtopics:
        if topic.name != "flux start":
            yield f"{topic.name.replace(' ', '-')}.1", command_page(topic)


def command_page(topic: Topic) -> str:
    """The page of a command, with its subcommands."""
    name = topic.name.replace(" ", "-")
    about = _ABOUT_START if name == "flux-start" else _sentence(topic.summary)
    parts = [
        *head(name, 1, topic.summary[:1].lower() + topic.summary[1:]),
        *_synopsis([topic] if not topic.subtopics else _leaves(topic)),
        ".SH DESCRIPTION",
        *paragraphs(about),
        *_options(topic.options, ".SH"),
    ]
    for leaf in _leaves(topic):
        parts += [f".SH {quoted(leaf.name)}", *paragraphs(_sentence(leaf.summary)), *_options(leaf.options, ".SS")]
    return finish([*parts, *see_also("flux(1)", "flux-start(1)", "pytest-flux(7)")])


def _flux_page(flux: Topic) -> str:
    parts = [*head("flux", 1, flux.summary), *_synopsis([flux]), ".SH DESCRIPTION", *paragraphs(_ABOUT_FLUX)]
    parts += [*_options(flux.options, ".SH"), ".SH COMMANDS"]
    for topic in flux.subtopics:
        parts += entry(f"\\fB{escaped(topic.name.replace(' ', '-'))}\\fR(1)", _sentence(topic.summary))
    return finish([*parts, *see_also("flux-start(1)", "pytest-flux(7)")])


def _leaves(topic: Topic) -> list[Topic]:
    return [each for each in topic.walk() if each is not topic and not each.subtopics]


def _synopsis(topics: Sequence[Topic]) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    for number, topic in enumerate(topics):
        if number:
            yield ".br"
        yield f"\\fB{escaped(topic.name)}\\fR {escaped(topic.usage)}".rstrip()


def _options(options: Iterable[Option], heading: str) -> Iterator[str]:
    shown = [option for option in sorted(options, key=lambda option: option.group) if not option.hidden]
    if not shown:
        return
    yield f"{heading} OPTIONS"
    for option in shown:
        if not option.name:
            yield f".SS {quoted(option.usage.strip().rstrip(':'))}"
            continue
        forms = [f"\\fB\\-{escaped(option.key)}\\fR"] if option.key else []
        forms.append(f"\\fB\\-\\-{escaped(option.name)}\\fR")
        if option.argument:
            forms[-1] += f"={escaped(option.argument)}"
        yield from entry(", ".join(forms), _sentence(option.usage))


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?", ")")) else f"{text}."


# -- the language of man(7)


def head(name: str, section: int, summary: str) -> list[str]:
    """The title line and the section NAME."""
    from pytest_flux import __version__

    title = f'.TH {quoted(name.upper())} {section} "" "pytest-flux {__version__}" "pytest-flux"'
    return [title, ".SH NAME", f"{escaped(name)} \\- {escaped(summary.rstrip('.'))}"]


def see_also(*names: str) -> list[str]:
    """The last section."""
    return [".SH SEE ALSO", escaped(", ".join(names))]


def paragraphs(text: str) -> Iterator[str]:
    """Text whose paragraphs have empty lines between."""
    for paragraph in text.split("\n\n"):
        yield ".PP"
        yield from map(escaped, paragraph.splitlines())


def entry(term: str, text: str) -> list[str]:
    """A term, escaped already, and what it means."""
    return [".TP", term, *map(escaped, text.splitlines() or [""])]


def quoted(text: str) -> str:
    """An argument of a macro."""
    return '"' + escaped(text).replace('"', "\\(dq") + '"'


def escaped(text: str) -> str:
    """Text in which nothing is a command."""
    text = (
        text.replace("\\", "\\e")
        .replace("-", "\\-")
        .replace("'", "\\(aq")
        .replace("`", "\\(ga")
        .replace("^", "\\(ha")
    )
    return f"\\&{text}" if text.startswith(".") else text


def finish(lines: Iterable[str]) -> str:
    """The text of a page."""
    return "\n".join(lines) + "\n"
