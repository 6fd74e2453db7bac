# mypy: ignore-errors
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ANN204, PT017, SIM117
"""Run inside an instance of two brokers by a Python that has `flux`: what each part of its bindings must do.

``bodies.py ours|c NAME...`` runs the functions of these names, one after another. For each it prints a line of JSON,
its name and what it raised, or null.
"""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import flux
import flux.constants
import flux.job
import flux.kvs
from flux.core.inner import ffi, raw
from flux.future import Future, FutureExt, WaitAllFuture
from flux.hostlist import Hostlist
from flux.idset import IDset
from flux.job import FluxExecutor, JobID, JobspecV1

handle = flux.Flux()
SIZE = {"name": "size"}


def command(*words, **how):
    jobspec = JobspecV1.from_command(list(words), **how)
    jobspec.environment, jobspec.cwd = {"PATH": os.environ["PATH"]}, "/"
    return jobspec


def error_of(function, *arguments, **how):
    try:
        function(*arguments, **how)
    except OSError as error:
        return errno.errorcode[error.errno], error.strerror
    raise AssertionError("no error")


def raises(kind, function, *arguments, **how):
    try:
        function(*arguments, **how)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def size(within=handle):
    return within.rpc("attr.get", SIZE).get()["value"]


# -- remote procedure calls


def calls():
    assert size() == "2"
    assert error_of(handle.rpc("nosuch.method").get)[0] == "ENOSYS"
    code, words = error_of(handle.rpc("attr.get", {"name": "nosuch"}).get)
    assert code == "ENOENT", words
    assert handle.rpc("attr.set", {"name": "test.x", "value": "1"}).get() is None
    assert handle.rpc("attr.get", {"name": "rank"}, nodeid=1).get()["value"] == "1"
    assert error_of(handle.rpc("attr.get", SIZE, nodeid=77).get)[0] == "EHOSTUNREACH"
    raises(OverflowError, handle.rpc, "attr.get", SIZE, nodeid=-1)
    # Answers can be taken in any order, and twice.
    first, second = handle.rpc("attr.get", SIZE), handle.rpc("attr.get", {"name": "rank"})
    assert (second.get()["value"], first.get()["value"], second.get()["value"]) == ("0", "2", "0")
    # Nobody waits for an answer to this one.
    assert error_of(handle.rpc("attr.get", SIZE, flags=flux.constants.FLUX_RPC_NORESPONSE).get)[0] == "EINVAL"
    text = "ƒ \u263a"
    assert handle.rpc("broker.ping", {"seq": 1, "pad": text}).get()["pad"] == text


def streams():
    handle.service_register("streams").get()

    def serve(handle, _kind, message, _argument):
        for number in range(message.payload["count"]):
            handle.respond(message, {"number": number})
        handle.respond_error(message, errno.ENODATA, None)

    watcher = handle.msg_watcher_create(serve, flux.constants.FLUX_MSGTYPE_REQUEST, "streams.count")
    watcher.start()
    numbers, ends = [], []

    def take(future):
        try:
            numbers.append(future.get()["number"])
        except OSError as error:
            ends.append(error.errno)
            future.get_flux().reactor_stop()
        future.reset()

    handle.rpc("streams.count", {"count": 5}, flags=flux.constants.FLUX_RPC_STREAMING).then(take)
    handle.reactor_run()
    assert (numbers, ends) == ([0, 1, 2, 3, 4], [errno.ENODATA])
    watcher.destroy()
    handle.service_unregister("streams").get()
    assert error_of(handle.rpc("streams.count").get)[0] == "ENOSYS"


# -- futures


def continuations():
    seen = []
    handle.rpc("attr.get", SIZE).then(lambda future, *words, **how: seen.append((words, how)), "a", b="c")
    assert handle.reactor_run() == 0
    assert seen == [(("a",), {"b": "c"})]
    # Responses keep the reactor running, futures do not.
    assert handle.reactor_run() == 0
    future = handle.rpc("attr.get", SIZE)
    assert handle.reactor_run() == 0
    assert future.get()["value"] == "2"
    # A future that is fulfilled before its then() calls back all the same.
    future.then(lambda future: seen.append(future.get()["value"]) or handle.reactor_stop())
    handle.reactor_run()
    assert seen[1:] == ["2"]
    assert error_of(handle.rpc("attr.get", SIZE).then(print).then, print)[0] == "EEXIST"
    raises(ValueError, handle.rpc("attr.get", SIZE).then, None)
    gc.collect()


def exceptions():
    def fail(future):
        raise KeyError("boom")

    handle.rpc("attr.get", SIZE).then(fail)
    raises(KeyError, handle.reactor_run)
    assert handle.reactor_run() == 0
    timer = handle.timer_watcher_create(0.0, lambda *_: 1 / 0)
    with timer:
        raises(ZeroDivisionError, handle.reactor_run)
    # A blocking get of a future whose init fails raises what failed.
    raises(KeyError, FutureExt(fail, flux_handle=handle).get)
    assert size() == "2"


def nested_gets():
    seen = []

    def ask(future):
        seen.append(handle.rpc("attr.get", {"name": "rank"}).get()["value"])
        seen.append(future.get_flux().rpc("attr.get", SIZE).get()["value"])

    handle.rpc("attr.get", SIZE).then(ask)
    handle.reactor_run()
    assert seen == ["0", "2"]


def timeouts():
    waiting = handle.rpc("kvs-watch.lookup", {"key": "nosuch", "namespace": "primary", "flags": 8})
    assert error_of(waiting.wait_for, 0.0)[0] == "ETIMEDOUT"
    began = time.monotonic()
    assert error_of(waiting.wait_for, 0.2)[0] == "ETIMEDOUT"
    assert time.monotonic() - began >= 0.2
    assert not waiting.is_ready()
    waiting = handle.rpc("kvs-watch.lookup", {"key": "nosuch", "namespace": "primary", "flags": 8})
    codes = []
    waiting.then(lambda future: codes.append(error_of(future.get)[0]) or handle.reactor_stop(), timeout=0.1)
    handle.reactor_run()
    assert codes == ["ETIMEDOUT"], codes
    assert error_of(Future(raw.flux_future_create(ffi.NULL, ffi.NULL)).wait_for, 0.0)[0] == "ETIMEDOUT"


def contexts():
    """The init callback of a future runs in the context that the future is used in."""
    others = []
    pending = handle.rpc("attr.get", SIZE)
    pending.then(lambda future: others.append("called"))

    class Pings(FutureExt):
        def __init__(self):
            super().__init__(self.begin, flux_handle=handle)

        def begin(self, future):
            future.get_flux().rpc("broker.ping", {"seq": 1}).then(self.go_on, future)

        def go_on(self, answer, future):
            number = answer.get()["seq"]
            if number == 5:
                future.fulfill({"pings": number, "others": len(others)})
            else:
                answer.get_flux().rpc("broker.ping", {"seq": number + 1}).then(self.go_on, future)

    # A blocking get runs its own reactor: what waits on the handle's waits on.
    assert Pings().get() == {"pings": 5, "others": 0}
    assert others == []
    results = []
    Pings().then(lambda future: results.append(future.get()["pings"]))
    handle.reactor_run()
    assert (others, results) == (["called"], [5])
    # Nothing can fulfill this one.
    assert error_of(FutureExt(lambda future: None, flux_handle=handle).get)[0] in ("EDEADLK", "EDEADLOCK")


def results():
    future = FutureExt(lambda future: future.fulfill("foo"))
    assert future.get() == "foo"
    for value in ("bar", {"key": "value"}, [1, 2], 0, None):
        future.reset()
        future.fulfill(value)
        assert future.get() == value
    future.reset()
    future.fulfill(1)
    future.fulfill(2)
    assert future.get() == 1
    future.reset()
    assert future.get() == 2
    future.reset()
    future.fulfill_error(errno.EINVAL, "words")
    assert error_of(future.get) == ("EINVAL", "words") or future.error_string() == "words"


def composites():
    everything = WaitAllFuture()
    for _ in range(5):
        everything.push(handle.rpc("attr.get", SIZE))
    everything.get()
    assert [child.get()["value"] for child in everything.children] == ["2"] * 5
    done = []
    for service in ("attr.get", "nosuch.method"):
        everything = WaitAllFuture([])
        everything.push(handle.rpc("attr.get", SIZE))
        everything.push(handle.rpc(service, SIZE))
        everything.then(lambda future: done.append(all(child.is_ready() for child in future.children)))
    handle.reactor_run()
    assert done == [True, True]
    anything = Future(raw.flux_future_wait_any_create())
    never = handle.rpc("kvs-watch.lookup", {"key": "nosuch", "namespace": "primary", "flags": 8})
    for name, child in (("never", never), ("soon", handle.rpc("attr.get", SIZE))):
        if anything.get_flux() is None:
            anything.set_flux(handle)
        anything.pimpl.push(name, child)
        child.pimpl.incref()
    anything.get()
    assert not never.is_ready()


# -- watchers


def timers():
    order = []
    watchers = [
        handle.timer_watcher_create(after, lambda *arguments: order.append(arguments[3]), args=name)
        for after, name in ((0.3, "c"), (0.1, "a"), (0.2, "b"))
    ]
    for watcher in watchers:
        watcher.start()
    assert handle.reactor_run() == 0
    assert order == ["a", "b", "c"]
    ticks = []

    def tick(handle, watcher, *_):
        ticks.append(1)
        if len(ticks) == 4:
            watcher.stop()

    with handle.timer_watcher_create(0.01, tick, repeat=0.01):
        assert handle.reactor_run() == 0
    assert len(ticks) == 4
    assert error_of(handle.timer_watcher_create, -1, tick)[0] == "EINVAL"
    stopped = handle.timer_watcher_create(0.0, lambda handle, *_: handle.reactor_stop())
    # The number of watchers that are left, less one that reactor_run() takes for its own.
    with handle.timer_watcher_create(1000, tick), handle.timer_watcher_create(1000, tick), stopped:
        assert handle.reactor_run() == 1
    erring = handle.timer_watcher_create(0.0, lambda handle, *_: handle.reactor_stop_error())
    with erring:
        assert handle.reactor_run() < 0
    with handle.timer_watcher_create(1000, tick) as unreferenced:
        unreferenced.unref()
        assert handle.reactor_run() == 0
        unreferenced.ref()


def loops():
    """Prepare watchers call before the wait, check watchers after it; an idle watcher keeps it from blocking."""
    calls = []
    idle = handle.idle_watcher_create()

    def prepare(*_):
        calls.append("prepare")
        idle.start()

    def check(handle, *_):
        calls.append("check")
        if len(calls) == 6:
            handle.reactor_stop()

    with handle.prepare_watcher_create(prepare), handle.check_watcher_create(check):
        handle.reactor_run()
    idle.stop()
    assert calls == ["prepare", "check"] * 3
    reading, writing = os.pipe()
    read = []

    def readable(handle, watcher, descriptor, revents, _argument):
        read.append(os.read(descriptor, 10))
        assert revents & flux.constants.FLUX_POLLIN
        watcher.stop()

    with handle.fd_watcher_create(reading, readable, flux.constants.FLUX_POLLIN):
        with handle.timer_watcher_create(0.05, lambda *_: os.write(writing, b"x")):
            handle.reactor_run()
    assert read == [b"x"]


def signals():
    caught = []
    before = signal.getsignal(signal.SIGUSR1)

    def catch(handle, watcher, number, _argument):
        caught.append(number)
        handle.reactor_stop()

    with handle.signal_watcher_create(signal.SIGUSR1, catch):
        with handle.timer_watcher_create(0.05, lambda *_: os.kill(os.getpid(), signal.SIGUSR1)):
            handle.reactor_run()
    assert caught == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before
    for number in (-1, 0, 500):
        raises(OSError, handle.signal_watcher_create, number, catch)


def interrupts():
    """^C leaves reactor_run as KeyboardInterrupt; during a blocking call it ends the program."""
    with handle.timer_watcher_create(0.05, lambda *_: os.kill(os.getpid(), signal.SIGINT)):
        with handle.timer_watcher_create(1000, print):
            raises(KeyboardInterrupt, handle.reactor_run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    script = """
import flux, sys
future = flux.Flux().rpc("kvs-watch.lookup", {"key": "nosuch", "namespace": "primary", "flags": 8})
print("ready", flush=True)
future.get()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    # It is in the call, or about to be: until the call, ^C is an exception, which ends it as well.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode in (-signal.SIGINT, 1, 130)


def signal_handler():
    def handler(*_):
        raise RuntimeError("from the handler")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    began = time.monotonic()
    raises(
        RuntimeError, handle.rpc("kvs-watch.lookup", {"key": "x", "namespace": "primary", "flags": 8}).wait_for, 3.0
    )
    late = time.monotonic() - began > 2
    assert late == (sys.argv[1] == "c")


# -- messages


def services():
    assert handle.service_register("echo").get() is None
    assert error_of(flux.Flux().service_register("echo").get)[0] == "EEXIST"

    def serve(handle, _kind, message, argument):
        if message.payload == {"fail": True}:
            handle.respond_error(message, errno.EBUSY, "not now")
        else:
            handle.respond(message, {"got": message.payload, "argument": argument})

    watcher = handle.msg_watcher_create(serve, flux.constants.FLUX_MSGTYPE_REQUEST, "echo.*", args="x")
    watcher.start()
    answers = []

    def take(future):
        try:
            answers.append(future.get())
        except OSError as error:
            answers.append((error.errno, error.strerror))
        if len(answers) == 2:
            watcher.stop()

    handle.rpc("echo.it", {"q": 2}).then(take)
    handle.rpc("echo.it", {"fail": True}).then(take)
    handle.reactor_run()
    assert answers == [{"got": {"q": 2}, "argument": "x"}, (errno.EBUSY, "not now")]
    watcher.destroy()
    other = handle.msg_watcher_create(serve, flux.constants.FLUX_MSGTYPE_REQUEST, "echo.known")
    other.start()
    codes = []
    handle.rpc("echo.unknown").then(lambda future: codes.append(error_of(future.get)) or other.stop())
    handle.reactor_run()
    assert codes == [("ENOSYS", "Unknown service method 'echo.unknown'")]
    handle.service_unregister("echo").get()
    assert error_of(handle.service_unregister("echo").get)[0] == "ENOENT"


def events():
    handle.event_subscribe("my.")
    handle.event_send("my.first", {"a": 1})
    handle.event_send("other.one")
    handle.event_send("my.second", {"a": 2})
    # An answer that is waited for passes by the events that come before it.
    assert size() == "2"
    received = [handle.event_recv() for _ in range(2)]
    assert [(message.topic, message.payload) for message in received] == [
        ("my.first", {"a": 1}),
        ("my.second", {"a": 2}),
    ]
    assert error_of(handle.recv, flags=flux.constants.FLUX_O_NONBLOCK)[0] == "EAGAIN"
    seen = []

    def take(handle, _kind, message, _argument):
        seen.append(message.payload["n"])
        if len(seen) == 3:
            handle.reactor_stop()

    with_glob = handle.msg_watcher_create(take, flux.constants.FLUX_MSGTYPE_EVENT, "my.*")
    with_glob.start()
    for number in range(3):
        handle.event_send("my.x", {"n": number})
    handle.reactor_run()
    assert seen == [0, 1, 2]
    with_glob.destroy()
    handle.event_unsubscribe("my.")
    assert error_of(handle.event_unsubscribe, "my.")[0] == "ENOENT"


# -- services of every broker


def attributes():
    assert (handle.attr_get("rank"), handle.get_rank(), handle.attr_get("size")) == ("0", 0, "2")
    handle.attr_set("test.words", "ƒ Φ")
    assert handle.attr_get("test.words") == "ƒ Φ"
    handle.attr_remove("test.words")
    assert error_of(handle.attr_get, "test.words")[0] == "ENOENT"
    raises(ValueError, handle.attr_set, "test.x", 1)
    assert handle.conf_get("no.such.key", default=5) == 5
    for line in ("hello", b"bytes", "two\nlines"):
        handle.log(6, line)
    # What is logged has arrived when the next request to the same service is answered.
    request = {"follow": False, "nobacklog": False}
    entries = handle.rpc("log.dmesg", request, flags=flux.constants.FLUX_RPC_STREAMING)
    lines = []
    while True:
        try:
            lines.append(entries.get_str())
        except OSError as error:
            assert error.errno == errno.ENODATA
            break
        entries.reset()
    assert [line.split()[-1] for line in lines[-4:]] == ["hello", "bytes", "two", "lines"]


def places():
    assert flux.Flux("..").attr_get("instance-level") == "0"
    assert flux.Flux("/").attr_get("instance-level") == "0"
    assert flux.Flux(".").attr_get("size") == "2"
    assert error_of(flux.Flux, "local:///nope") == (
        "ENOENT",
        "Unable to connect to Flux: broker socket /nope was not found",
    )
    assert error_of(flux.Flux, "../x")[0] == "EINVAL"
    assert error_of(flux.Flux, "/x")[0] == "EINVAL"
    assert "nosuch" in error_of(flux.Flux, "nosuch://x")[1]


def keys():
    flux.kvs.put(handle, "a.b", {"x": [1]})
    flux.kvs.put(handle, "raw", b"\xff\x00\xfe")
    flux.kvs.put_symlink(handle, "link", "a.b")
    flux.kvs.commit(handle)
    assert flux.kvs.get(handle, "a.b") == flux.kvs.get(handle, "link") == {"x": [1]}
    assert error_of(flux.kvs.get, handle, "nosuch")[0] == "ENOENT"
    assert (flux.kvs.exists(handle, "a"), flux.kvs.isdir(handle, "a"), flux.kvs.exists(handle, "q")) == (1, 1, 0)
    with flux.kvs.get_dir(handle) as directory:
        directory["k"] = 5
        directory["d.e"] = "text"
    assert flux.kvs.get(handle, "k") == 5
    assert sorted(flux.kvs.get_dir(handle, "d").files()) == ["e"]
    assert [tuple(map(list, (d, f))) for _, d, f in flux.kvs.walk("d", flux_handle=handle)] == [([], ["e"])]
    flux.kvs.namespace_create(handle, "ns")
    flux.kvs.put(handle, "z", 1)
    flux.kvs.commit(handle, namespace="ns")
    assert flux.kvs.get(handle, "z", namespace="ns") == 1
    assert error_of(flux.kvs.get, handle, "z")[0] == "ENOENT"
    flux.kvs.namespace_remove(handle, "ns")
    values = []
    watch = flux.kvs.kvs_watch_async(handle, "k")

    def take(future):
        value = future.get()
        if value is None:
            return
        values.append(value)
        if value == 5:
            flux.kvs.put(handle, "k", 6)
            flux.kvs.commit(handle)
        else:
            future.cancel()

    watch.then(take)
    handle.reactor_run()
    assert values == [5, 6]


# -- jobs


def jobs():
    jobid = flux.job.submit(handle, command("sh", "-c", "echo out; exit 3"), waitable=True)
    status = flux.job.wait(handle, jobid)
    assert (status.jobid, status.success) == (jobid, False)
    result = flux.job.result(handle, jobid)
    assert (result.result, result.returncode) == ("FAILED", 3)
    assert flux.job.job_output(handle, jobid).stdout == "out\n"
    names = [event.name for event in flux.job.event_watch(handle, jobid)]
    assert (names[0], names[-1]) == ("submit", "clean")
    assert flux.job.event_wait(handle, jobid, "finish").context["status"] == 3 << 8
    assert error_of(flux.job.event_wait, handle, 12345, "start")[0] == "ENOENT"
    assert flux.job.get_job(handle, jobid)["result"] == "FAILED"
    assert flux.job.job_kvs_lookup(handle, jobid, keys=["jobspec"], original=True)["jobspec"]["version"] == 1
    held = flux.job.submit(handle, command("true"), urgency=0)
    flux.job.cancel(handle, held, "reason")
    canceled = flux.job.result(handle, held)
    assert (canceled.result, canceled.exception.note) == ("CANCELED", "reason")
    running = flux.job.submit(handle, command("sleep", "60"))
    flux.job.event_wait(handle, running, "shell.start", eventlog="guest.exec.eventlog")
    flux.job.kill(handle, running, signal.SIGUSR1)
    assert flux.job.result(handle, running).returncode == 128 + signal.SIGUSR1
    assert error_of(flux.job.submit, handle, "{}")[0] in ("EPERM", "EINVAL")
    raises(TypeError, flux.job.submit, handle, 0)


def journal():
    consumer = flux.job.JournalConsumer(handle).start()
    jobid = flux.job.submit(handle, command("true"))
    names = []
    while names[-1:] != ["clean"]:
        event = consumer.poll(timeout=30.0)
        assert event is not None, names
        if event.jobid == jobid:
            names.append(event.name)
    consumer.stop()
    assert names[:4] == ["submit", "validate", "depend", "priority"]


def executor():
    with FluxExecutor(threads=2) as pool:
        futures = [pool.submit(command("sh", "-c", f"exit {code}")) for code in range(5)]
        assert [future.result(60) for future in futures] == [0, 1, 2, 3, 4]
        seen = []
        future = pool.submit(command("true"))
        future.add_event_callback("finish", lambda _, event: seen.append(event.name))
        assert future.result(60) == 0
        assert pool.attach(future.jobid()).result(60) == 0
        assert pool.submit(command("sh", "-c", "kill -9 $$")).result(60) == 137
        future = pool.submit(command("sleep", "60"))
        flux.job.cancel(handle, future.jobid())
        assert "cancel" in str(raises(flux.job.JobException, future.result, 60))
        assert "unsatisfiable" in str(
            raises(flux.job.JobException, pool.submit(command("true", num_tasks=9999)).result, 60)
        )
    assert seen == ["finish"]


# -- values


def values():
    hosts = Hostlist("foo[3,1-2],bar")
    assert (len(hosts), hosts[0], list(hosts)) == (4, "foo3", ["foo3", "foo1", "foo2", "bar"])
    assert str(hosts.sort()) == "bar,foo[1-3]"
    assert (hosts.find("foo2"), "nope" in hosts, hosts.delete("foo[1-2]"), str(hosts)) == (2, False, 2, "bar,foo3")
    raises(ValueError, Hostlist, "foo[")
    assert str(Hostlist("a10,a9,a09,b,a").sort()) == "a,a[9,09-10],b"
    ids = IDset("0-3,7")
    assert (len(ids), list(ids), ids.first(), ids.last(), 2 in ids) == (5, [0, 1, 2, 3, 7], 0, 7, True)
    assert str(ids.set(4, 6).clear(0)) == "1-7"
    assert (str(ids & IDset("2-3,9")), str(ids - IDset("2-6")), str(ids | IDset("9"))) == ("2-3", "1,7", "1-7,9")
    assert ids.encode(flags=0) == "1,2,3,4,5,6,7"
    assert ids.encode(flags=2 | 4) == "[1-7]"
    assert IDset("1-3") == IDset([1, 2, 3])
    for words in ("x", "1-", "3-1", "1,1"):
        raises(ValueError, IDset, words)
    jobid = JobID("ƒuzzybunny")
    assert (int(jobid), jobid.dothex, jobid.f58plain) == (6787342413402046, "0018.1d0d.4d85.0fbe", "fuzzybunny")
    assert (jobid.kvs, jobid.hex, JobID(jobid.kvs)) == ("job.0018.1d0d.4d85.0fbe", "0x181d0d4d850fbe", jobid)
    raises(ValueError, JobID, "boop")


# -- processes, threads, leaks


def threads():
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: size(flux.Flux()), range(80))) == ["2"] * 80

    def loop(_):
        mine, seen = flux.Flux(), []
        for _ in range(20):
            mine.rpc("attr.get", SIZE).then(lambda future: seen.append(future.get()["value"]))
        mine.reactor_run()
        return len(seen)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(loop, range(8))) == [20] * 8
    # Errors stay in their threads.
    failures = []

    def fail():
        failures.extend(error_of(handle_of_thread.rpc("nosuch.x").get)[0] for _ in range(20))

    handle_of_thread = flux.Flux()
    thread = threading.Thread(target=fail)
    thread.start()
    assert all(size() == "2" for _ in range(20))
    thread.join()
    assert failures == ["ENOSYS"] * 20


def forks():
    pid = os.fork()
    if not pid:
        os._exit(0 if size(flux.Flux()) == "2" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert size() == "2"


def _usage():
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _leaks(once, times, megabytes):
    for _ in range(times):
        once()
    descriptors, memory = _usage()
    for _ in range(times):
        once()
    now_descriptors, now_memory = _usage()
    assert now_descriptors <= descriptors, (descriptors, now_descriptors)
    assert now_memory - memory < megabytes, (memory, now_memory)


def open_futures():
    """Handles that are dropped while futures wait for answers."""

    def once():
        mine = flux.Flux()
        for number in range(20):
            mine.rpc("kvs-watch.lookup", {"key": f"nosuch{number}", "namespace": "primary", "flags": 8})
        mine.rpc("attr.get", SIZE).then(print)
        flux.future._THEN_HANDLES.clear()

    _leaks(once, 50, 8)


def many_futures():
    def once():
        futures = [handle.rpc("attr.get", SIZE) for _ in range(2500)]
        assert all(future.get()["value"] == "2" for future in futures)
        done = []
        for future in [handle.rpc("attr.get", SIZE) for _ in range(2500)]:
            future.then(lambda future: done.append(future.get()["value"]))
        handle.reactor_run()
        assert len(done) == 2500

    _leaks(once, 1, 30)


def many_handles():
    def once():
        handles = [flux.Flux() for _ in range(100)]
        assert [size(one) for one in handles] == ["2"] * 100

    _leaks(once, 2, 8)


def imports():
    """Every module of the package can be imported."""
    import importlib
    import pkgutil

    names = [module.name for module in pkgutil.walk_packages(flux.__path__, "flux.")]
    assert len(names) > 80
    for name in names:
        importlib.import_module(name)


TOGETHER = [
    calls, streams, continuations, exceptions, nested_gets, timeouts, contexts, results, composites, timers, loops,
    services, events, attributes, places, keys, jobs, journal, values,
]  # fmt: skip
ALONE = [signals, forks, threads, imports]
LONG = [interrupts, signal_handler, executor, open_futures, many_futures, many_handles]

if __name__ == "__main__":
    parts = {part.__name__: part for part in TOGETHER + ALONE + LONG}
    for name in sys.argv[2:]:
        raised = None
        try:
            parts[name]()
        except BaseException:  # noqa: BLE001 - the test that asked for the part gets it
            raised = traceback.format_exc()
        print(json.dumps([name, raised]), flush=True)
