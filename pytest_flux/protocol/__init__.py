"""Bytes to values and back, one file per RFC: no sockets, no clocks, no processes."""
