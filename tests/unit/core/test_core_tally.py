"""What a request's summary says of its drafts: places in the chain, and worker passes that were of use."""

from __future__ import annotations

from tests.unit.core.core_doubles import Rig
from wanspec.core.events import Drafted
from wanspec.core.messages import ROOT
from wanspec.core.rounds import Tally
from wanspec.core.tree import Origin

PROMPT = (5, 6, 7)


def linked():
    rig = Rig()
    rig.link_up()
    rig.controller.estimators.observe("rtt", 30.0)
    rig.controller.estimators.observe("pass", 8.0)
    return rig


def test_drafts_are_counted_at_their_place_and_by_their_origin():
    tally = Tally()
    for place, origin, accepted in ((0, Origin.REMOTE, True), (1, Origin.LOCAL, False), (2, Origin.LOCAL, False)):
        tally.verified(place, origin, accepted)
    tally.verified(0, Origin.REMOTE, False)
    assert tally.positions == {"remote": [[2, 1]], "local": [[0, 0], [1, 0], [1, 0]]}
    assert (tally.drafted_remote, tally.accepted_remote, tally.drafted_local, tally.accepted_local) == (2, 1, 2, 0)


def test_a_pass_is_used_once_its_token_becomes_text():
    rig = linked()
    actions = rig.submit(policy="remote_sync")
    rig.drafts(PROMPT, 1, [(ROOT, 1, -0.1)], first=0, passes=1)
    rig.drafts(PROMPT, 1, [(0, 2, -0.1), (0, 3, -0.9)], first=1, passes=2)
    rig.drafts(PROMPT, 1, [(1, 4, -0.1)], first=3, passes=3)
    actions = rig.answer(actions, 1)  # foreseen by the first pass, though never verified
    tally = rig.sequence().tally
    assert (tally.remote_draft_passes, tally.remote_passes_used) == (3, 1)
    rig.answer(actions, 3)  # the second pass had it as its second child; the third drafted behind its first
    assert (tally.remote_draft_passes, tally.remote_passes_used) == (3, 2)
    assert tally.positions["remote"][0] == [1, 0]


def test_local_drafts_use_no_pass():
    rig = linked()
    actions = rig.answer(rig.submit(policy="local"), 1)
    (call,) = actions[-1:]
    actions = rig.do(Drafted(call.action, (2, 3), (-0.1, -0.1), 15.0))
    rig.answer(actions, 2, 3, 4)
    tally = rig.sequence().tally
    assert tally.positions == {"local": [[1, 1], [1, 1]]}
    assert tally.remote_passes_used == 0


def test_the_summary_has_the_workers_pass():
    rig = linked()
    rig.submit(policy="wanspec")
    assert rig.sequence().summary("length", rig.now)["pass_ms"] == 8.0
