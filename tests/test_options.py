from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.options import Option, OptionExit, OptionParser, Options, split_commas

TABLE = (
    Option("setattr", "S", "ATTR=VAL", split=True, usage="Set an attribute"),
    Option("recovery", "r", "[TARGET]", optional=True, attached=True, usage="Recover"),
    Option("verbose", "v", "[LEVEL]", optional=True, usage="Say more"),
    Option("noexec", "X", usage="Do nothing"),
    Option("sysconfig", usage="Use the system's configuration"),
    Option("", usage="\nFor tests:", group=1),
    Option("test-size", "s", "N", group=1, usage="How many brokers"),
    Option("test-exit-timeout", argument="FSD", group=1, usage="How long to wait"),
    Option("test-exit-mode", argument="any|leader", group=1, usage="Whom to wait for"),
    Option("test-rundir", argument="DIR", group=1, usage="Where"),
    Option("test-rundir-cleanup", group=1, usage="And no longer there"),
    Option("noise", exact=True, group=1, usage="Not abbreviated"),
    Option("secret", argument="X", hidden=True, usage="Not shown"),
)


def parse(*argv: str, permute: bool = False) -> Options:
    return OptionParser("flux-try", TABLE, permute=permute).parse(argv)


def refusal(*argv: str) -> str:
    with pytest.raises(OptionExit) as caught:
        parse(*argv)
    assert caught.value.status == 1
    return caught.value.text


def test_an_argument_may_be_attached_follow_or_stand_behind_an_equals_sign() -> None:
    for argv in (["-s4"], ["-s", "4"], ["--test-size=4"], ["--test-size", "4"], ["-Xs4"], ["-Xs", "4"]):
        assert parse(*argv).get("test-size") == "4", argv


def test_an_argument_is_taken_whatever_it_looks_like() -> None:
    assert parse("-s", "--noexec").get("test-size") == "--noexec"
    assert parse("--test-size", "--").get("test-size") == "--"
    assert parse("--test-size=").get("test-size") == ""


def test_letters_cluster() -> None:
    options = parse("-vXv")
    assert options.count("verbose") == 2
    assert options.has("noexec")


def test_optional_arguments_must_be_attached() -> None:
    assert parse("-rdump.tar").get("recovery") == "dump.tar"
    assert parse("--recovery=dump.tar").get("recovery") == "dump.tar"
    assert parse("--recovery=").get("recovery") == ""
    for form in ("-r", "--recovery"):
        options = parse(form, "dump.tar")
        assert options.has("recovery")
        assert options.get("recovery", "default") is None
        assert options.arguments == ["dump.tar"]


def test_absent_options() -> None:
    options = parse()
    assert not options.has("recovery")
    assert options.get("recovery", "default") == "default"
    assert options.count("verbose") == 0
    assert options.all("setattr") == []
    assert options.integer("test-size", 7) == 7
    assert options.duration("test-exit-timeout", 20.0) == 20.0


def test_names_not_in_the_table_are_mistakes() -> None:
    with pytest.raises(KeyError):
        parse().has("no-such")


def test_options_stop_at_the_first_other_word() -> None:
    options = parse("-X", "echo", "-v", "--", "-X")
    assert options.arguments == ["echo", "-v", "--", "-X"]
    assert not options.has("verbose")
    assert parse("-", "-X").arguments == ["-", "-X"]


def test_options_end_at_two_dashes() -> None:
    assert parse("-X", "--", "-v", "--").arguments == ["-v", "--"]


def test_permuting_parsers_look_for_options_everywhere() -> None:
    options = parse("echo", "-v", "hi", "--", "-X", permute=True)
    assert options.arguments == ["echo", "hi", "-X"]
    assert options.has("verbose")
    assert not options.has("noexec")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("--set=a", "setattr"),
        ("--sy", "sysconfig"),
        ("--test-s=1", "test-size"),
        ("--test-rundir=x", "test-rundir"),
        ("--test-rundir-c", "test-rundir-cleanup"),
        # getopt_long sees no contradiction between options of one kind, and takes the first.
        ("--test-exit=1", "test-exit-timeout"),
        ("--test-exit-m=any", "test-exit-mode"),
        # not --noise
        ("--no", "noexec"),
        ("--noise", "noise"),
    ],
)
def test_long_options_may_be_abbreviated(word: str, name: str) -> None:
    assert parse(word).has(name)


@pytest.mark.parametrize("word", ["--test-r=x", "--test-", "--s", "--=x", "--noi", "--x", "--test-size-"])
def test_ambiguous_and_unknown_long_options(word: str) -> None:
    assert refusal(word, "arg") == (
        f"flux-try: unrecognized option '{word}'\nTry `flux-try --help' for more information.\n"
    )


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("-Z", "-Z"),
        ("-XZv", "-Z"),
        ("-v2", "-2"),
        ("-v=2", "-="),
        ("-:", "-:"),
        ("--sysconfig=3", "--sysconfig=3"),
        ("--noexec=3", "-X"),
        ("-é", "-\udcc3"),
    ],
)
def test_what_is_reported_as_unrecognized(word: str, shown: str) -> None:
    assert refusal(word).startswith(f"flux-try: unrecognized option '{shown}'\n")


@pytest.mark.parametrize("word", ["-s", "-Xs", "--test-size", "--test-si"])
def test_missing_argument(word: str) -> None:
    assert refusal("-X", word) == f"flux-try: '{word}' missing argument\n"


@pytest.mark.parametrize(
    ("argv", "level"),
    [
        ([], 0),
        (["-v"], 1),
        (["-vv"], 2),
        (["-v", "--verbose"], 2),
        (["--verbose=5"], 5),
        (["-v", "--verbose=2", "-v"], 2),
        (["--verbose=0"], 0),
    ],
)
def test_levels_are_counted_or_given(argv: list[str], level: int) -> None:
    assert parse(*argv).integer("verbose", 0) == level


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), (" 3", 3), ("+3", 3), ("-3", -3), ("\t007", 7), ("2147483647", 2**31 - 1), ("-2147483648", -(2**31))],
)
def test_integers(text: str, number: int) -> None:
    assert parse("-s", text).integer("test-size", 0) == number


@pytest.mark.parametrize(
    "text", ["", "abc", "3x", "3 ", "- 3", "+", "1_0", "٣", "0x3", "1.0", "2147483648", "9" * 5000]
)
def test_no_integers(text: str) -> None:
    with pytest.raises(OptionExit) as caught:
        parse("-s", text).integer("test-size", 0)
    assert caught.value.text == "flux-try: flux-try: Option 'test-size' requires an integer argument\n"


def test_durations() -> None:
    assert parse("--test-exit-timeout=1.5m").duration("test-exit-timeout", 0) == 90.0
    for text in ("-1", "1x", "nan"):
        with pytest.raises(OptionExit) as caught:
            parse(f"--test-exit-timeout={text}").duration("test-exit-timeout", 0)
        assert caught.value.text == (
            f"flux-try: flux-try: Invalid argument for option 'test-exit-timeout': '{text}'\n"
        )


def test_a_subcommand_is_named_in_full_once() -> None:
    options = OptionParser("flux event pub", TABLE).parse(["-sx"])
    with pytest.raises(OptionExit, match=r"\Aflux event pub: pub: Option 'test-size' requires"):
        options.integer("test-size", 0)


@pytest.mark.parametrize(
    ("text", "items"),
    [("", []), ("a", ["a"]), ("a,b", ["a", "b"]), (",a,,b", ["a", "b"]), ("a,", ["a", ""]), (",", [""])],
)
def test_lists_are_split_as_glibc_does(text: str, items: list[str]) -> None:
    assert split_commas(text) == items
    assert parse("-S", text, "-Sz").all("setattr") == [*items, "z"]


def test_values_keep_their_order() -> None:
    options = parse("-Sa=1,b=2", "--setattr", "c=3", "-X", "-Sd=4")
    assert options.all("setattr") == ["a=1", "b=2", "c=3", "d=4"]
    assert options.count("setattr") == 3
    assert options.get("setattr") == "d=4"


HELP = """\
Usage: flux-try [OPTIONS]...
  -h, --help             Show this text and exit
  -S, --setattr=ATTR=VAL Set an attribute
  -r, --recovery=[TARGET]
                         Recover
  -v, --verbose=[LEVEL]  Say more
  -X, --noexec           Do nothing
      --sysconfig        Use the system's configuration

For tests:
  -s, --test-size=N      How many brokers
      --test-exit-timeout=FSD
                         How long to wait
      --test-exit-mode=any|leader
                         Whom to wait for
      --test-rundir=DIR  Where
      --test-rundir-cleanup
                         And no longer there
      --noise            Not abbreviated
"""


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for argv in (["-h"], ["--help"], ["--he", "-Z"], ["-Xh"], ["-X", "-h", "--no-such"]):
        with pytest.raises(OptionExit) as caught:
            parse(*argv)
        assert (caught.value.status, caught.value.text) == (0, HELP)
    assert refusal("-Z", "-h") != HELP


@pytest.mark.parametrize("columns", ["", "x", "16", "256", "-1", "80"])
def test_strange_widths_are_80(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert OptionParser("flux-try", TABLE).help() == HELP


def test_help_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = (
        Option("modes", argument="single|per-broker|none", usage="One of several modes of running"),
        Option("n", usage="Set PMI_process_mapping mode"),
    )
    assert OptionParser("p", table, "ARGS", width=27).help() == (
        "Usage: p ARGS\n"
        "  -h, --help               Show this\n"
        "                           text and exit\n"
        "      --modes=single|per-broker|none\n"
        "                           One of\n"
        "                           several modes\n"
        "                           of running\n"
        "      --n                  Set\n"
        "                           PMI_process_-\n"
        "                           mapping mode\n"
    )


def test_forms_wider_than_the_terminal_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = OptionParser("p", (Option("clique", argument="single|per-broker|none"),), width=20).help()
    assert "      --clique=single|per-br+\n" in text


def test_usage_errors_show_the_help() -> None:
    error = OptionParser("flux-try", TABLE).usage_error("missing topic")
    assert (error.status, error.text) == (1, "flux-try: missing topic\n" + OptionParser("flux-try", TABLE).help())


WORDS = st.lists(st.one_of(st.text(), st.from_regex(r"-{0,2}[SrvXsh=te-]{0,4}[=a1,]{0,3}", fullmatch=True)))


@settings(max_examples=200)
@given(WORDS, st.booleans())
def test_any_command_line_is_understood_or_refused(argv: list[str], permute: bool) -> None:
    try:
        options = parse(*argv, permute=permute)
    except OptionExit:
        return
    assert set(options.arguments) <= set(argv)


@settings(max_examples=100)
@given(st.lists(st.text()))
def test_words_after_two_dashes_are_left_alone(argv: list[str]) -> None:
    assert parse("-v", "--", *argv).arguments == argv
