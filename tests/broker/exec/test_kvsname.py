"""The name of a job's PMI space, which MPI libraries use as a name on the whole host."""

from __future__ import annotations

import re
import sys

import pytest

from pytest_flux.instance.flux_instance import Starter

ASK = """
import os, socket
pmi = socket.socket(fileno=int(os.environ["PMI_FD"])).makefile("rw")
for line in ("cmd=init pmi_version=1 pmi_subversion=1", "cmd=get_my_kvsname"):
    print(line, file=pmi, flush=True)
    answer = pmi.readline()
print(answer)
"""


@pytest.mark.flux(broker="embedded")
def test_first_jobs_of_instances_have_names_of_their_own(flux_instance_factory: Starter) -> None:
    jobs = [flux_instance_factory(size=2).submit([sys.executable, "-c", ASK], tasks=2, nodes=2) for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    names = [set(re.findall(r"kvsname=(\S+)", job.output().stdout.decode())) for job in jobs]
    assert [len(each) for each in names] == [1, 1]
    assert names[0] != names[1]
