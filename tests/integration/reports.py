"""What an HTML report holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest


def reported(path: Path) -> list[dict[str, Any]]:
    """The requests of an HTML report; the parts of each are its latency."""
    found = re.search(r'id="index">(.*?)</script>', path.read_text(), re.S)
    assert found is not None
    requests: list[dict[str, Any]] = json.loads(found[1])["requests"]
    for each in requests:
        assert sum(each["parts"]) == pytest.approx(each["ms"], rel=0.001)
        assert each["parts"][-1] <= 0.02 * each["ms"]
    return requests
