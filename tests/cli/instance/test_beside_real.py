"""The `flux` command in whole instances, embedded and real; and beside the real `flux` on one instance."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

FLUX = (sys.executable, "-m", "pytest_flux.cli.flux")
WAIT = 30.0

# Seven brokers would show more of a tree; three are enough for a parent with two children.
_SIZE = ("-s3", "--test-hosts=node[0-2]")
_PROGRAM = ("sh", "-c", "echo $FLUX_URI; exec cat")
_EMBEDDED = (sys.executable, "-m", "pytest_flux.cli.flux_start", "--broker=embedded")


def run_instance(command: tuple[str, ...]) -> Iterator[str]:
    """The URI of an instance that is there until the generator goes on."""
    words = [*command, *_SIZE, *_PROGRAM]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            assert uri.startswith("local://"), "the instance did not start"
            yield uri
        finally:
            process.stdin.close()
            process.wait(WAIT)


@pytest.fixture(scope="module", params=["embedded", pytest.param("system", marks=pytest.mark.system_flux)])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """Rank 0 of an instance of either kind."""
    if request.param == "embedded":
        yield from run_instance(_EMBEDDED)
    else:
        path: str = request.getfixturevalue("system_flux")
        no_modules = ("-Sbroker.rc1_path=", "-Sbroker.rc3_path=")
        yield from run_instance((path, "start", *no_modules))


class Result:
    """What a command did; ``shown`` is its output and errors, with times and identifiers made equal."""

    def __init__(self, program: tuple[str, ...], words: tuple[str, ...], uri: str, stdin: str = "") -> None:
        done = subprocess.run(
            [*program, *words],
            env=os.environ | {"FLUX_URI": uri},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr
        self.shown = (_mask(done.stdout), _mask(done.stderr), done.returncode)


def _mask(text: str) -> list[str]:
    for pattern, replacement in (
        (r"[0-9.]+ ?ms\b", "N ms"),
        (r"[0-9a-f]{8}(?=[!)])", "UUID"),
        (r"\bfor [0-9.]+[smh]\b", "for N"),
        (r"(?m)^seq=[0-9]+$", "seq=N"),
        (r"(?m)^ [0-9:]{8} run [0-9.]+[smh]", " NOW run N"),
        (r"(?m)^([0-9]+): [0-9]+$", r"\1: PID"),
    ):
        text = re.sub(pattern, replacement, text)
    # Ranks answer in any order.
    return sorted(text.splitlines())


def ours(uri: str, *words: str, stdin: str = "") -> Result:
    return Result(FLUX, words, uri, stdin)


def test_attributes(uri: str) -> None:
    assert ours(uri, "getattr", "size").out == "3\n"
    assert ours(uri, "getattr", "xx").shown == ([], ["flux-getattr: xx: No such file or directory"], 1)
    assert ours(uri, "setattr", "rank", "1").err == "flux-setattr: rank: attribute may not be updated\n"
    assert ours(uri, "setattr", "test.cli", "7").code == 0
    lines = ours(uri, "lsattr", "-v").out.splitlines()
    assert f"{'test.cli':<40}7" in lines
    assert f"{'hostlist':<40}node[0-2]" in lines


def test_tree(uri: str) -> None:
    expected = "0 node0: full\n├─ 1 node1: full\n└─ 2 node2: full\n"
    assert ours(uri, "overlay", "status", "--wait=full", "--timeout=20s").out == expected
    assert ours(uri, "overlay", "parentof", "2").out == "0\n"
    assert ours(uri, "overlay", "errors").shown == ([], [], 0)


def test_ping(uri: str) -> None:
    result = ours(uri, "ping", "-c2", "-i", "1ms", "node2")
    assert result.code == 0
    assert result.out.startswith("flux-ping node2!broker (rank 2)\n2!broker.ping pad=0 seq=0 time=")
    assert ours(uri, "ping", "-c1", "9").err == "flux-ping: 9!broker.ping: No route to host\n"


def test_events(uri: str) -> None:
    with subprocess.Popen(
        [*FLUX, "event", "sub", "-c2", "cli.test"],
        env=os.environ | {"FLUX_URI": uri},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while process.poll() is None:
                # Again and again: when it subscribes is not known.
                assert ours(uri, "event", "pub", "-s", "cli.test.one", '{"a":1}').code == 0
                assert ours(uri, "event", "pub", "-lr", "cli.test.two", "raw").code == 0
        finally:
            process.kill()
        output, _ = process.communicate(timeout=WAIT)
    assert sorted(output.splitlines()) == ['cli.test.one\t{"a":1}', "cli.test.two\traw"]


def test_log(uri: str) -> None:
    assert ours(uri, "logger", "-s", "info", "-n", "clitest", "some", "words").code == 0
    assert ours(uri, "dmesg").out.splitlines()[-1].endswith(" clitest.info[0]: some words")
    assert ours(uri, "dmesg", "-C").shown == ([], [], 0)
    assert ours(uri, "dmesg").out == ""


def test_exec(uri: str) -> None:
    assert ours(uri, "exec", "-nl", "printenv", "FLUX_URI").shown == (
        [f"{rank}: {uri.rpartition('-')[0]}-{rank}" for rank in range(3)],
        [],
        0,
    )
    # Lines of two ranks come in any order.
    assert sorted(ours(uri, "exec", "-r1-2", "cat", stdin="a\nb\n").out.split()) == ["a", "a", "b", "b"]
    script = "echo out; echo err >&2; exit 3"
    assert ours(uri, "exec", "-n", "-r1", "sh", "-c", script).shown == (["out"], ["1: Exit 3", "err"], 3)
    assert ours(uri, "exec", "-n", "sh", "-c", "kill -9 $$").err == "[0-2]: Killed\n"
    assert ours(uri, "exec", "-n", "-r2", "nosuchprogram").code == 127
    assert ours(uri, "exec", "-n", "-d", "/", "-r0", "pwd").out == "/\n"


def test_exec_of_much(uri: str) -> None:
    text = "".join(f"{number}\n" for number in range(200_000))
    assert ours(uri, "exec", "-r2", "cat", stdin=text).out == text


def test_background(uri: str) -> None:
    script = "echo started; read line; exit 5"
    assert ours(uri, "exec", "--bg", "--waitable", "--label=clitest", "-r1", "sh", "-c", script).code == 0
    assert ours(uri, "sproc", "ps", "-r1", "-n", "-o", "{label} {cmd} {rank}").out == "clitest sh 1\n"
    assert ours(uri, "exec", "--attach", "-n", "-r1", "clitest").code == 5
    assert ours(uri, "sproc", "ps", "-r1").out == "      PID ST LABEL        COMMAND\n"


def test_processes_in_the_background(uri: str) -> None:
    for signum, code in (("9", 137), ("15", 143)):
        assert ours(uri, "exec", "--bg", "--waitable", "--label=clitest", "-r2", "sleep", "60").code == 0
        assert ours(uri, "sproc", "kill", "-w", "-r2", signum, "clitest").shown == ([], [], code)
    assert ours(uri, "exec", "--bg", "--waitable", "--label=clitest", "-r2", "sh", "-c", "exit 3").code == 0
    assert ours(uri, "sproc", "wait", "-r", "2", "clitest").shown == ([], [], 3)
    assert ours(uri, "sproc", "wait", "clitest").shown == (
        [],
        ["flux-sproc: wait: label clitest does not belong to any subprocess"],
        1,
    )
    assert ours(uri, "sproc", "kill", "9", "nosuch").code == 1
    assert ours(uri, "sproc", "kill", "TERM", "nosuch").err == ("flux-sproc: 'TERM' is not the number of a signal\n")


def test_version_and_uptime(uri: str) -> None:
    assert re.search(r"(?m)^broker:  \t\t[0-9]+\.[0-9]+\.[0-9]+", ours(uri, "version").out)
    # The second line, if there is one, is about queues.
    first = ours(uri, "uptime").out.splitlines()[0]
    assert re.fullmatch(r" [0-9:]{8} run [0-9.]+[a-z]+,  owner \S+,  depth 0,  size 3", first)


@pytest.fixture(scope="module")
def both(system_flux: str) -> Iterator[tuple[str, str]]:
    """The real `flux`, and the URI of a real instance with all its modules."""
    for uri in run_instance((system_flux, "start")):
        yield system_flux, uri


@pytest.mark.system_flux
@pytest.mark.parametrize(
    "line",
    [
        "getattr size",
        "getattr xx",
        "getattr -x",
        "setattr rank 3",
        "setattr nosuch 1",
        "setattr -f hostname x",
        "lsattr",
        "lsattr -v",
        "-r getattr size",
        "-p getattr size",
        "nosuchcommand",
        "./nosuch",
        "overlay",
        "overlay bogus",
        "overlay status -v",
        "overlay status -vv",
        "overlay status --summary",
        "overlay status --down",
        "overlay status --no-pretty",
        "overlay status -H node[1-2] --color=always",
        "overlay status -H 9",
        "overlay status -r 9",
        "overlay status -w lost -t 50ms",
        "overlay status -t x",
        "overlay lookup 1-2",
        "overlay lookup node[0-1]",
        "overlay lookup nosuch",
        "overlay parentof 0",
        "ping -c2 -i0 1",
        "ping -c1 -u kvs",
        "ping -c1 node2!kvs",
        "ping -c1 nosuch",
        "ping -c1 upstream",
        "ping -c1 -p 4k any",
        "event pub -s foo",
        "event pub -l foo {}",
        "event bogus",
        "dmesg",
        "dmesg -H",
        "dmesg -Hd --color",
        "dmesg -Lfoo x",
        "logger -s bad x",
        "uptime",
        "module list x",
        "module stats -p period heartbeat",
        "module debug kvs",
        "config get",
        "config get foo",
        "config get -d 3 foo",
        "config get -t bad",
        "pmi barrier",
        "pmi exchange",
        "pmi get a",
        "pmi --method=simple barrier",
        "exec -n hostname",
        "exec -nl -r0,2 echo a",
        "exec -n false",
        "exec -nq false",
        "exec -nv -r1 true",
        "exec -n -r0 nosuchprogram",
        "exec -n -r0 /etc/passwd",
        "exec -n -r0 -d /nonexistent pwd",
        "exec -r 0-9 true",
        "exec -r x true",
        "exec --bg -r0-1 true",
        "exec --attach -r0 nosuchlabel",
        "exec cat",
        "sproc ps -n -r1",
    ],
)
def test_as_the_real_one(both: tuple[str, str], line: str) -> None:
    path, uri = both
    expected = Result((path,), tuple(line.split()), uri)
    result = ours(uri, *line.split())
    if expected.err.startswith("Usage:") or "\nUsage:" in expected.err:
        # Help texts are our own, from the description on.
        lines = [line for line in expected.err.splitlines() if re.match(r"flux|Usage:|   or:", line)]
        assert result.err.splitlines()[: len(lines)] == lines
        assert result.code == expected.code
    else:
        assert result.shown == (*map(_without_difference, expected.shown[:2]), expected.code)


def _without_difference(lines: list[str]) -> list[str]:
    # The real one does not end this line.
    return [re.sub(r"--color: 'foo'flux-dmesg.*", "--color: 'foo'", line) for line in lines]
