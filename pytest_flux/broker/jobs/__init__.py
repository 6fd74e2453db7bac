"""Jobs: what job-ingest, job-manager, job-list and job-info of flux-core are together, on rank 0."""
