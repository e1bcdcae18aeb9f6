"""docs/conformance.md against the rules."""

from __future__ import annotations

import re
from pathlib import Path

from wanspec.conformance import RULES

TEXT = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.0-9]+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_every_rule_is_in_the_table_as_it_is_in_the_code() -> None:
    assert ROW.findall(TEXT) == [(rule.name, rule.title, rule.section) for rule in RULES]


def test_rules_have_names_of_their_own_and_say_what_they_need_to() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"[a-z]+\.[a-z_0-9]+", rule.name)
        assert rule.title.endswith(".")
        assert rule.why
        assert rule.how


def test_the_number_of_rules_is_right() -> None:
    assert f"{len(RULES)} rules" in TEXT
