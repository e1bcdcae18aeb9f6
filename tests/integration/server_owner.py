"""Run by test_server_cleanup: owns a ready server and ends in the way that its first argument names."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from wanspec.triton.server import TritonServer


def main(ending: str, repository: str, log_dir: str) -> None:
    # Where the tests themselves run in the background of a shell, SIGINT is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = TritonServer(Path(repository), name="owned", log_dir=Path(log_dir)).start()
    server.wait_ready(60)
    facts = {"pid": server.pid, "folder": str(server.folder), "prefix": server.shm_prefix}
    print(json.dumps(facts), flush=True)
    if ending == "forgets":
        return  # a normal exit without stop()
    if ending == "raises":
        raise RuntimeError("on purpose")
    if ending == "forks":
        if os.fork() == 0:  # a child that keeps copies of the pipes open must not keep the server alive
            time.sleep(20)
            os._exit(0)
        time.sleep(60)
    with server:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
