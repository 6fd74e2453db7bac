"""Jobs, on rank 0: the data and rules behind flux-core's job-ingest, job-manager, job-list and job-info."""
