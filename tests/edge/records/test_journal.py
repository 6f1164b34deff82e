"""Every change of state is one line with its reason; nothing is said twice."""

import logging

from edge.records.journal import Journal
from edge.states import Cause, Standing, State


def test_it_says_what_changes_and_why_and_how_long_a_hold_took(caplog) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(100.0)
    dark = Standing({Cause.CAMERA: "frame 120 ms old"}, {Cause.CAMERA: 0.1})
    story = [
        (State.DISARMED, Standing()),
        (State.IDLE, Standing()),
        ("HOMING", Standing()),
        (State.HOLD, dark),
        (State.HOLD, dark._replace(reasons={Cause.CAMERA: "frame 140 ms old"})),
        (State.HOLD, Standing({Cause.BUS: "silent"}, {Cause.BUS: 0.1})),
        ("HOMING", Standing()),
        (State.SAFE, Standing(safe_cause=Cause.BUS, safe_reason="silent for 5 s")),
        (State.DISARMED, Standing()),
    ]
    for second, (state, standing) in enumerate(story):
        journal.tell(state, standing, 100.0 + second)
        journal.tell(state, standing, 100.5 + second)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "DISARMED → IDLE"),
        ("INFO", "IDLE → HOMING"),
        ("WARNING", "HOMING → HOLD: frame 120 ms old"),
        ("WARNING", "HOLD → HOLD: silent"),
        ("WARNING", "HOLD → HOMING after 3.00 s"),
        ("ERROR", "HOMING → SAFE: silent for 5 s"),
        ("INFO", "SAFE → DISARMED"),
    ]
    assert journal.since_s == 108.0
