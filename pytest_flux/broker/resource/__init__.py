"""The resources of an instance: discovered or configured, drained or excluded, online or not."""
