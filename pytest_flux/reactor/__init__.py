"""The event loop that launcher and broker run on, and what hangs on it: streams, sockets, child processes.

It is ours because of when it is needed: importing asyncio alone takes several times as long as starting the
interpreter, on the path of every `flux-start`, and a broker is forked from a loop that already runs, which asyncio
does not allow for.
"""
