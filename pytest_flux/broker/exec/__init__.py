"""Execution of jobs: on rank 0 what flux-core's job-exec does, on each rank what its job shell does.

A job's shells are no processes: they live in the brokers. What they tell the job, and what it tells them, are calls
on rank 0, and messages of the service ``job-shell`` on other ranks.
"""
