"""The content store of rank 0: blobs by the hash of their bytes, in memory and in Flux's SQLite file (RFC 10)."""
