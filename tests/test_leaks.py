"""The leak check itself: it fails for each kind of thing, names it, and bears with what ends by itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil
import pytest

from tests.leaks import wait_for_end

LEAKING = """
    import os, subprocess, sys, tempfile
    import pytest

    kept = []

    def start_orphan(body, **keywords):
        script = "import os, signal, socket\\nif os.fork(): os._exit(0)\\nos.setsid()\\n" + body
        script += "\\nprint('up', flush=True); os.close(1); signal.pause()"
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, **keywords) as process:
            assert process.stdout.readline()

    def test_clean():
        subprocess.run(["true"])

    def test_child():
        kept.append(subprocess.Popen(["sleep", "600"]))

    def test_zombie():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def test_orphan():
        start_orphan("")

    def test_orphan_that_soon_ends():
        start_orphan("signal.setitimer(signal.ITIMER_REAL, 0.1)")

    def test_descriptor():
        kept.append(os.open("/", os.O_RDONLY))

    def test_descriptor_in_a_cycle():
        cycle = []
        cycle.append((cycle, open(os.devnull)))

    def test_directory():
        tempfile.mkdtemp(prefix="flux-of-test-")

    def test_shared_directory():
        os.mkdir(os.environ["SHARED_DIRECTORY"])

    def test_socket(tmp_path):
        open_socket = f"bound = socket.socket(socket.AF_UNIX); bound.bind('{tmp_path}/local'); bound.listen()"
        start_orphan(f"{open_socket}; open('{tmp_path}/pid', 'w').write(str(os.getpid()))", env={})

    @pytest.fixture(scope="module")
    def module_descriptor():
        kept.append(os.open("/", os.O_RDONLY))

    def test_of_the_session(module_descriptor):
        pass
"""


# Not the true ones: instances of other tests may be there.
CONFTEST = """
    import os
    import tests.leaks
    tests.leaks.GRACE = 1.0
    if "PYTEST_XDIST_WORKER" not in os.environ:
        tests.leaks.SHARED_DIRECTORIES = ({shared!r},)
"""


@pytest.fixture
def shared(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory where instances must not appear, in which tests make the one that SHARED_DIRECTORY names."""
    path = pytester.mkdir("shared")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("SHARED_DIRECTORY", f"{path}/flux-of-test")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest(CONFTEST.format(shared=str(path)))
    return path


def test_each_kind_is_found_and_named(pytester: pytest.Pytester, shared: Path) -> None:
    pytester.makepyfile(test_leaking=LEAKING)
    result = pytester.runpytest_subprocess("-p", "tests.leaks", "-p", "no:cacheprovider", "--durations=8")
    for file in pytester.path.rglob("pid"):
        process = psutil.Process(int(file.read_text()))
        process.kill()
        assert not wait_for_end([process], 5)

    output = result.stdout.str()
    section = re.compile(r"^_+ ERROR at teardown of (\w+) _+\n(.+?)(?=^[_=]{5})", re.MULTILINE | re.DOTALL)
    errors = dict(section.findall(output))
    expected = {
        "test_child": r"the test left behind:\n  process \d+ \(sleep 600\), \w+, child of \d+",
        "test_zombie": r"process \d+ \(.+\), zombie, child of \d+",
        "test_orphan": r"(?s)process \d+ \(.+signal.pause.+\), \w+, child of \d+",
        "test_descriptor": r"descriptor \d+ \(/\)",
        "test_directory": r"directory .+/flux-of-test-\w+",
        "test_shared_directory": re.escape(f"directory {shared}/flux-of-test"),
        "test_of_the_session": r"the session left behind:\n(.+\n)*  descriptor \d+ \(/\)",
    }
    if sys.platform.startswith("linux"):
        expected["test_socket"] = r"listening socket /.+/local"
    result.assert_outcomes(passed=11, errors=len(expected))
    assert errors.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.search(pattern, errors[name]), f"{name}: {errors[name]}"


def test_what_workers_leave_is_found_at_the_end(pytester: pytest.Pytester, shared: Path) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile("import os\ndef test(): os.mkdir(os.environ['SHARED_DIRECTORY'])\ndef test_other(): pass")
    result = pytester.runpytest_subprocess("-p", "tests.leaks", "-p", "no:cacheprovider", "-n2")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f"the session left behind:\n  {shared}/flux-of-test" in result.stdout.str()
