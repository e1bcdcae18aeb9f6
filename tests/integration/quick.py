"""Servers that are killed at their end: Triton's orderly end takes 2 s or more, and is tested where it matters."""

from __future__ import annotations

from wanspec.triton.deployment import Deployment
from wanspec.triton.server import TritonServer


class QuickServer(TritonServer):
    """A server that ends at once."""

    def stop(self, timeout_s: float = 0.0) -> None:
        super().stop(timeout_s)


class QuickDeployment(Deployment):
    """Two regions that end at once."""

    def stop(self, timeout_s: float = 0.0) -> None:
        super().stop(timeout_s)
