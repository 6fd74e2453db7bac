"""A PMI-1 client that puts, enters a barrier and gets; rank 0 says how long that took all of them together.

Started as a "broker" by flux-start, or as a program by Hydra. Imports only what it must: thousands are started.
"""

import os
import time

_GETS = 8


def _main() -> None:
    channel = int(os.environ["PMI_FD"])
    rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])

    def ask(line: str) -> str:
        os.write(channel, line.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = os.read(channel, 4096)
            if not piece:
                raise EOFError(line)
            answer += piece
        return answer.decode()

    ask("cmd=init pmi_version=1 pmi_subversion=1")
    name = ask("cmd=get_my_kvsname").partition("kvsname=")[2].split()[0]
    ask("cmd=barrier_in")
    started = time.monotonic()
    ask(f"cmd=put kvsname={name} key=key-{rank} value={'v' * 64}")
    ask("cmd=barrier_in")
    for step in range(_GETS):
        ask(f"cmd=get kvsname={name} key=key-{(rank + step * 7 + 1) % size}")
    ask("cmd=barrier_in")
    if rank == 0:
        spent = time.monotonic() - started
        print(f"{size * (_GETS + 3) / spent:.0f} requests/s, {size} clients, {spent:.3f} s", flush=True)
    ask("cmd=finalize")


if __name__ == "__main__":
    _main()
