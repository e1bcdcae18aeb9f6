"""A report that can be sent: as JSON, and as text."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wanspec import __version__
from wanspec.conformance.run import FAIL, PASS, SKIP, Outcome
from wanspec.conformance.server import ModelInfo
from wanspec.conformance.subject import Options

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Report:
    """Outcomes of one server by one protocol, and what was checked.

    Attributes:
        protocol: grpc or http.
        info: of server and model.
        options: it was checked with.
        outcomes: in the order of the rules.
        facts: what probing found: vocab_size, max_draft_len, margin.
        started: UTC, ISO 8601.
        seconds: it took.
    """

    protocol: str
    info: ModelInfo
    options: Options
    outcomes: Sequence[Outcome]
    facts: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0

    def count(self, state: str) -> int:
        """How many rules ended so."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return self.count(FAIL) == 0

    @property
    def summary(self) -> str:
        """One line."""
        info = self.info
        return (
            f"{info.model} of {info.server} {info.server_version} over {self.protocol}: {self.count(PASS)} passed, "
            f"{self.count(FAIL)} failed, {self.count(SKIP)} skipped in {self.seconds:.1f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "summary": self.summary,
            "passed": self.passed,
            "protocol": self.protocol,
            "server": {"name": self.info.server, "version": self.info.server_version},
            "model": {"name": self.info.model, "config": dict(self.info.config)},
            "facts": self.facts,
            "options": asdict(self.options),
            "client": versions(),
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }

    def as_text(self) -> str:
        """For people: what is not a pass in full."""
        lines = [self.summary, f"facts: {self.facts}", f"client: {versions()}", ""]
        for outcome in self.outcomes:
            lines.append(f"{outcome.state:8}{outcome.rule:32}{outcome.seconds:8.2f} s  {outcome.detail}".rstrip())
            if outcome.state == FAIL:
                lines += [f"        expected {outcome.expected}", f"        got      {outcome.got}"]
        return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Of what asked."""
    found = {"wanspec": __version__, "python": platform.python_version()}
    for package in ("tritonclient", "grpcio", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
