"""The live view off a terminal and on one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tandem.front.live import PlainView, State, duration, view
from tandem.training.events import (
    Evaluated,
    Event,
    Finished,
    Note,
    Phase,
    Started,
    StepDone,
)

METRICS = {
    "train/loss": 0.5,
    "train/reverse_kl": 0.25,
    "rollout/exponent": 0.125,
    "rollout/kl_spent": 0.01,
    "rollout/budget": 0.02,
    "rollout/length": 40.0,
    "rollout/truncated": 0.01,
    "rollout/tokens_per_second": 1234.0,
    "time/step": 2.0,
}
ACCURACY = {"eval/pass@1": 0.5, "eval/pass@1_low": 0.4, "eval/pass@1_high": 0.6}


def _events() -> Iterator[Event]:
    yield Started(Path("runs/x"), 0, 2)
    yield Note("3 prompts are dropped", warning=True)
    yield Evaluated(0, {"eval/pass@1": 0.05})
    yield Phase(1, "roll out", 0, 8)
    yield StepDone(1, 2, METRICS)
    yield Phase(2, "roll out", 4, 8)
    yield StepDone(2, 2, METRICS)
    yield Evaluated(2, ACCURACY)
    yield Finished(2, interrupted=False)


def _console(*, terminal: bool, width: int = 80) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=width), text


def test_off_a_terminal_every_event_is_one_plain_line() -> None:
    console, text = _console(terminal=False, width=20)
    clock = iter(range(0, 1000, 10))
    with PlainView("x", console, now=lambda: float(next(clock))) as listen:
        for event in _events():
            listen(event)
    lines = text.getvalue().splitlines()
    assert lines[:3] == [
        "x: 2 steps, in runs/x",
        "warning: 3 prompts are dropped",
        "step 0: pass@1 5.0 %",
    ]
    assert lines[3].startswith(
        "step 1/2  reverse KL 0.2500 nats/token, loss 0.5000  exponent 0.125, KL 0.0100 of 0.0200 "
        "nats  1,234 tokens/s"
    )
    assert lines[5:] == ["step 2: pass@1 50.0 % [40.0, 60.0]", "finished after step 2"]
    assert "\x1b" not in text.getvalue()


def test_fast_steps_share_a_line_but_the_last_step_is_always_told() -> None:
    console, text = _console(terminal=False)
    with PlainView("x", console, now=lambda: 0.0) as listen:
        for step in range(1, 101):
            listen(StepDone(step, 100, METRICS))
    assert [line.split()[1] for line in text.getvalue().splitlines()] == ["1/100", "100/100"]


def test_on_a_terminal_the_panel_ends_with_everything_the_issue_names() -> None:
    console, text = _console(terminal=True)
    with view("a run", console) as listen:
        for event in _events():
            listen(event)
    last = text.getvalue()[text.getvalue().rindex("a run") :]
    for shown in ("2/2", "roll out", "4/8", "50.0 %", "from 5.0 %", "reverse KL 0.2500"):
        assert shown in last
    for shown in ("exponent 0.125", "KL 0.0100 of 0.0200 nats", "1,234 tokens/s"):
        assert shown in last


def test_a_roll_out_shows_its_tokens_while_no_response_has_ended() -> None:
    console, text = _console(terminal=True)
    with view("a run", console) as listen:
        listen(Started(Path("runs/x"), 0, 2))
        listen(Phase(1, "roll out", 0, 64, tokens=1234))
    last = text.getvalue()[text.getvalue().rindex("a run") :]
    assert "0/64" in last and "responses, 1,234 tokens" in last
    with view("a run", console) as listen:
        listen(Phase(1, "update", 0, 3))
    assert "tokens" not in text.getvalue()[text.getvalue().rindex("a run") :]


def test_until_a_run_has_started_it_says_that_it_is_loading() -> None:
    console, text = _console(terminal=True)
    with view("a run", console) as listen:
        pass
    assert "loading" in text.getvalue() and "0/0" not in text.getvalue()
    with view("a run", console) as listen:
        listen(Started(Path("runs/x"), 0, 2))
    last = text.getvalue()[text.getvalue().rindex("a run") :]
    assert "0/2" in last and "loading" not in last


def test_time_left_is_the_mean_step_times_the_steps_to_come() -> None:
    now = [100.0]
    state = State("x", now=lambda: now[0])
    state.take(Started(Path("x"), 10, 40))
    assert state.seconds_left() is None
    state.take(Phase(11, "roll out", 0, 1))
    now[0] = 130.0
    state.take(StepDone(15, 40, {}))
    # 5 steps took 30 s; 25 are left.
    assert state.seconds_left() == 150.0


def test_durations_read_like_a_clock() -> None:
    assert [duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
