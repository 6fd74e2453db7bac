"""Flux instances for pytest: the `flux start` launcher, a pytest plugin and an embedded broker."""
