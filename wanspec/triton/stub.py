"""What every model of ours does first inside Triton's python stub."""

from __future__ import annotations

import gc
import logging
import sys

from threadpoolctl import threadpool_limits

_SWITCH_INTERVAL_S = 0.0005


def prepare_stub(level: int = logging.INFO) -> None:
    """Send this package's log records to standard error, which Triton's log receives, and tune the interpreter.

    A thread that computes in Python would keep the interpreter for 5 ms while a frame or a commit waits, and a full
    garbage collection would look at every object of the libraries again. Algebra as small as a policy's takes longer on
    several threads, and far longer where other processes want the CPUs.
    """
    logger = logging.getLogger("wanspec")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    threadpool_limits(1, user_api="blas")


def settle_memory() -> None:
    """Call at the end of ``initialize``: what lives now lives on, and is left out of garbage collections."""
    gc.collect()
    gc.freeze()
