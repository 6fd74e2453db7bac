"""Flux instances for pytest: the `flux start` launcher, a pytest plugin and an embedded broker."""

__version__ = "0.1.0"
