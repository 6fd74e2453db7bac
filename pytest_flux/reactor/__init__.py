"""The event loop of launcher and broker, and what runs on it: pipes, sockets, child processes.

We have our own because every `flux-start` needs it at once: importing asyncio takes several times as long as starting
the interpreter. Besides, brokers are forked from a process whose loop is running, which asyncio does not support.
"""
