"""Execution of jobs: on rank 0 what flux-core's job-exec does, on each rank what its job shell does.

A job's shells live in the brokers. What could end or block a broker is left to a process of the job: it starts the
tasks and writes their files. A job talks to its shell on rank 0 by calls, and to the others by messages of the
service ``job-shell``. Where to look:

* ``job_exec``: all jobs that run, on rank 0; ``execution``: one of them; ``mock``: a job that only takes time;
* ``link`` and ``messages``: between a job and its shells;
* ``shells``: the shells of one broker; ``shell``: one of them; ``shell_process``: its process; ``task``: one task;
  ``equipment``: what tasks get; ``output``, ``terminal``, ``pmi``, ``affinity``, ``directories``: parts of that;
* ``placement``: which tasks run where; ``options``, ``mustache``: what a jobspec says, checked and filled in;
* ``guest``: a job's logs in the KVS; ``ending``: how a job is brought to its end.
"""
