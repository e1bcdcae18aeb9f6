"""Stop sequences: found wherever pieces are cut, and nothing else is lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wanspec.openai.stop import StopBuffer

TEXT = st.text("ab", max_size=24)


@given(TEXT, st.lists(st.integers(0, 24), max_size=5), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_as_if_the_text_came_whole(text: str, cuts: list[int], stops: list[str]) -> None:
    buffer = StopBuffer(stops)
    places = [0, *sorted(cuts), len(text)]
    pieces = [buffer.push(text[start:end]) for start, end in pairwise(places)]
    found = [(index + len(stop), index) for stop in stops if (index := text.find(stop)) >= 0]
    assert buffer.stopped == bool(found)
    # The stop sequence that is whole first decides, however the text is cut.
    assert "".join(pieces) + buffer.flush() == (text[: min(found)[1]] if found else text)


def test_what_may_begin_a_stop_is_held_back() -> None:
    buffer = StopBuffer(["\n\nQ:"])
    assert [buffer.push(piece) for piece in ("A.", "\n", "\n", "B", "\n\nQ", ": no")] == ["A.", "", "", "\n\nB", "", ""]
    assert buffer.stopped
    assert buffer.push("more") == buffer.flush() == ""
