"""Writes ``grafana/dashboards/*.json``: ``python -m deploy.observability.generate`` from the repository's root."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.observability.dashboards import DASHBOARDS

FOLDER = Path(__file__).parent / "grafana" / "dashboards"


def rendered() -> dict[str, str]:
    """Return every dashboard's JSON, by the name of its file."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {f"{name}.json": encoder.encode(_numbered(made().build())) + "\n" for name, made in DASHBOARDS.items()}


def _numbered(made: Dashboard) -> Dashboard:
    for number, panel in enumerate(made.panels or (), 1):
        panel.id_val = number
    return made


def main() -> None:
    """Write them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
