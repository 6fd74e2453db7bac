"""Commands about blobs, and about the whole of the key-value store."""
