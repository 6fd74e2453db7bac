# mypy: ignore-errors
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, BLE001
"""Run by the Python that Flux was built for, inside an instance: what its bindings answer, line by line.

``bindings.py flux.job flux.kvs ...`` runs these parts.
"""

import concurrent.futures
import io
import json
import os
import sys

import flux
import flux.constants
import flux.job
import flux.kvs
import flux.resource
from flux.job import FluxExecutor, JobID, JobspecV1
from flux.job.journal import JournalConsumer
from flux.job.stats import JobStats
from flux.job.watcher import JobWatcher
from flux.queue import QueueList
from flux.uri import FluxURIResolver

handle = flux.Flux()


def show(label, value):
    print(label, value, flush=True)


def attempt(label, function):
    try:
        show(label, function())
    except Exception as error:
        show(label, f"{type(error).__name__} {getattr(error, 'errno', '')} {error}")


def command(*words, **how):
    return JobspecV1.from_command(list(words), **how)


def submission():
    jobspec = command("sh", "-c", "echo out; exit 3")
    jobspec.environment, jobspec.cwd = dict(os.environ), "/tmp"
    result = flux.job.result(handle, flux.job.submit(handle, jobspec))
    show("result", (result.result, result.returncode, result.waitstatus, result.exception.occurred, result.success))
    attempt("urgency", lambda: flux.job.submit(handle, command("true"), urgency=99))
    attempt("no attributes", lambda: type(flux.job.submit(handle, json.dumps({"version": 1}))))
    attempt("validation", lambda: bool(flux.job.validate_jobspec(command("true").dumps())))
    pending = flux.job.submit_async(handle, command("true"))
    ids = []
    pending.then(lambda future: ids.append(future.get_id()))
    handle.reactor_run()
    show("async", len(ids))
    names = []

    def watched(future):
        event = future.get_event()
        if event is not None:
            names.append(event.name)

    flux.job.event_watch_async(handle, ids[0]).then(watched)
    handle.reactor_run()
    show("watched", names)


def waiting():
    job = flux.job.submit(handle, command("false"), waitable=True)
    result = flux.job.wait(handle, job)
    show("wait", (result.jobid == job, result.success, result.errstr))
    attempt("wait again", lambda: flux.job.wait(handle, job))
    show("events", [event.name for event in flux.job.event_watch(handle, job)])
    execution = flux.job.event_watch(handle, job, eventlog="guest.exec.eventlog")
    show("execution", [event.name for event in execution])
    show("event", flux.job.event_wait(handle, job, "finish").context)
    attempt("no such event", lambda: flux.job.event_wait(handle, job, "nosuch"))
    attempt("no such job", lambda: flux.job.event_wait(handle, 12345, "start"))


def control():
    held = flux.job.submit(handle, command("true"), urgency=0)
    attempt("cancel", lambda: flux.job.cancel(handle, held, "reason"))
    result = flux.job.result(handle, held)
    show("canceled", (result.result, result.returncode, result.exception.type, result.exception.note))
    attempt("cancel again", lambda: flux.job.cancel(handle, held))
    running = flux.job.submit(handle, command("sleep", "60"))
    flux.job.event_wait(handle, running, "shell.start", eventlog="guest.exec.eventlog")
    attempt("kill", lambda: flux.job.kill(handle, running, 10))
    show("killed", flux.job.result(handle, running).returncode)


def questions():
    job = flux.job.submit(handle, command("sh", "-c", "echo a; printf b; echo e >&2", num_tasks=2))
    flux.job.event_wait(handle, job, "clean")
    found = flux.job.job_kvs_lookup(handle, job, keys=["eventlog", "jobspec", "R"])
    show("lookup", (sorted(found), sorted(found["R"]["execution"])))
    output = flux.job.event_watch(handle, job, eventlog="guest.output")
    pieces = [event.context for event in output if event.name == "data" and "data" in event.context]
    show("output", sorted((piece["stream"], piece["rank"], piece["data"]) for piece in pieces))
    jobs = flux.job.job_list(handle).get_jobs()
    show("list", [(job["state"], job["name"], job["nnodes"], job["ntasks"]) for job in jobs[:1]])
    jobs = flux.job.JobList(handle, attrs=["all"], max_entries=1).jobs()
    show("JobList", [(str(job.state), job.returncode, job.ncores, job.result) for job in jobs])
    show("get_job", flux.job.get_job(handle, job)["result"])
    written = io.TextIOWrapper(io.BytesIO(), write_through=True)
    watcher = JobWatcher(handle, progress=False, log_events=False, stdout=written, stderr=written)
    watcher.start()
    watcher.add_jobid(job)
    handle.reactor_run()
    show("watcher", (watcher.exitcode, sorted(written.buffer.getvalue())))
    journal = JournalConsumer(handle).start()
    names = []
    while names[-1:] != ["clean"]:
        event = journal.poll(timeout=10.0)
        if event is not None and event.jobid == job:
            names.append(event.name)
    journal.stop()
    show("journal", names)
    stats = JobStats(handle).update_sync()
    show("stats", (stats.active, stats.pending, stats.running))
    show("queues", [(str(queue.name), queue.enabled, queue.started) for queue in QueueList(handle)])
    attempt("uri", lambda: FluxURIResolver().resolve(str(JobID(12345))))
    attempt("timeleft", lambda: flux.job.timeleft(handle))


def store():
    flux.kvs.put(handle, "a.b", {"x": [1]})
    flux.kvs.commit(handle)
    show("get", flux.kvs.get(handle, "a.b"))
    attempt("no such key", lambda: flux.kvs.get(handle, "nosuch"))
    show("exists", [flux.kvs.exists(handle, key) for key in ("a.b", "q")] + [flux.kvs.isdir(handle, "a")])
    with flux.kvs.get_dir(handle) as directory:
        directory["k"] = 5
        directory.commit()
    show("directory", flux.kvs.get(handle, "k"))
    walked = flux.kvs.walk("a", flux_handle=handle)
    show("walk", [(str(path), sorted(directories), sorted(files)) for path, directories, files in walked])
    attempt("namespace", lambda: flux.kvs.namespace_create(handle, "ns1"))
    show("namespaces", sorted(flux.kvs.namespace_list(handle)))
    flux.kvs.put(handle, "z", 1)
    flux.kvs.commit(handle, namespace="ns1")
    show("in it", flux.kvs.get(handle, "z", namespace="ns1"))
    attempt("outside", lambda: flux.kvs.get(handle, "z"))


def resources():
    found = flux.resource.list.resource_list(handle).get()
    show("list", (found.free.nnodes, found.free.ncores == found.all.ncores, str(found.up.ranks), found.down.nnodes))
    status = flux.resource.status.ResourceStatusRPC(handle).get()
    show("status", (str(status.drained), str(status.avail)))


def handles():
    show("attributes", (handle.attr_get("rank"), handle.attr_get("size")))
    attempt("no such attribute", lambda: handle.attr_get("nosuch"))
    attempt("no such service", lambda: handle.rpc("nosuch.x").get())
    show("configuration", handle.conf_get("resource.x", default="D"))
    handle.event_subscribe("x.")
    handle.event_send("x.y", {"a": 1})
    message = handle.event_recv()
    show("event", (message.topic, message.payload))
    handle.service_register("echo").get()
    answers = []

    def serve(handle, kind, message, argument):
        handle.respond(message, {"got": message.payload})

    def answered(future):
        answers.append(future.get())
        watcher.stop()

    watcher = handle.msg_watcher_create(serve, flux.constants.FLUX_MSGTYPE_REQUEST, "echo.it")
    watcher.start()
    handle.rpc("echo.it", {"q": 2}).then(answered)
    handle.reactor_run()
    watcher.destroy()
    show("service", answers)


def executor():
    with FluxExecutor(threads=2) as pool:
        futures = [pool.submit(command("sh", "-c", f"exit {code}")) for code in range(5)]
        show("codes", [future.result(60) for future in futures])
        seen = []
        future = pool.submit(command("true"))
        future.add_event_callback("finish", lambda _, event: seen.append((event.name, event.context)))
        future.result(60)
        show("events", seen)
        show("attached", pool.attach(future.jobid()).result(60))
        future = pool.submit(command("sleep", "60"))
        flux.job.event_wait(handle, future.jobid(), "start")
        flux.job.cancel(handle, future.jobid())
        attempt("canceled", lambda: future.result(60))
        future = pool.submit(command("true", num_nodes=99, num_tasks=99))
        attempt("infeasible", lambda: future.result(60))
        attempt("junk", lambda: type(pool.submit("junk").exception(60)))
        futures = [pool.submit(command("true")) for _ in range(50)]
        show("completed", len(list(concurrent.futures.as_completed(futures, timeout=60))))


PARTS = (submission, waiting, control, questions, store, resources, handles, executor)

if __name__ == "__main__":
    {part.__name__: part for part in PARTS}[sys.argv[1]]()
