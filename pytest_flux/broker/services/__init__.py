"""The broker's services, one file each; the names and payloads are flux-core's."""
