"""What a person watches while a run goes on: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tandem.training.events import (
    Evaluated,
    Event,
    Finished,
    Note,
    Phase,
    Saved,
    Started,
    StepDone,
)

# Off a terminal, steps faster than this share a line.
SECONDS_BETWEEN_LINES = 5.0
BAR_WIDTH = 30


@dataclass(slots=True)
class State:
    """What is known of the run so far; the same whether it is drawn or printed."""

    title: str
    now: Callable[[], float] = time.monotonic
    step: int = 0
    total_steps: int = 0
    phase: Phase | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluated | None = None
    first_evaluation: Evaluated | None = None
    began: float = 0.0
    began_at_step: int = 0

    def take(self, event: Event) -> None:
        """Account for one event."""
        if isinstance(event, Started):
            self.step = self.began_at_step = event.step
            self.total_steps = event.total_steps
        elif isinstance(event, Phase):
            # The clock of "time left" starts with the first roll-out: the rehearsal and the
            # first evaluation come once.
            if self.began == 0.0 and event.name == "roll out":
                self.began = self.now()
            self.phase = event
        elif isinstance(event, StepDone):
            self.step, self.metrics = event.step, event.metrics
        elif isinstance(event, Evaluated):
            self.evaluation = event
            self.first_evaluation = self.first_evaluation or event

    def seconds_left(self) -> float | None:
        """Expected seconds to the last step, from the mean of the steps of this session."""
        done = self.step - self.began_at_step
        if done <= 0 or self.began == 0.0:
            return None
        return (self.now() - self.began) / done * (self.total_steps - self.step)

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of every number worth watching that is there."""
        found: list[tuple[str, str]] = []
        if self.evaluation is not None:
            text = f"{accuracy(self.evaluation.metrics)} after step {self.evaluation.step}"
            if self.first_evaluation is not self.evaluation and self.first_evaluation is not None:
                text += f", from {100 * self.first_evaluation.metrics['eval/pass@1']:.1f} %"
            found.append(("accuracy", text))
        m = self.metrics
        if loss := losses(m):
            found.append(("loss", loss))
        blend = blending(m)
        if blend:
            found.append(("blend", blend))
        if m.get("rollout/teacher_forwards", 0.0) > 0.0:
            found.append(("blocks", blocks(m)))
        if "rollout/length" in m:
            text = f"{m['rollout/length']:.0f} tokens, {100 * m['rollout/truncated']:.1f} % cut"
            found.append(("responses", text))
        if "rollout/tokens_per_second" in m:
            text = f"{m['rollout/tokens_per_second']:,.0f} tokens/s, {m['time/step']:.2f} s/step"
            found.append(("speed", text))
        return found


def accuracy(metrics: dict[str, float]) -> str:
    """pass@1 with its interval, in per cent."""
    text = f"{100 * metrics['eval/pass@1']:.1f} %"
    if "eval/pass@1_low" not in metrics:
        return text
    low, high = metrics["eval/pass@1_low"], metrics["eval/pass@1_high"]
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def losses(metrics: dict[str, float]) -> str:
    """The loss, and the reverse KL where the objective measures one; empty before the first."""
    if "train/loss" not in metrics:
        return ""
    text = f"loss {metrics['train/loss']:.4f}"
    if "train/reverse_kl" in metrics:
        text = f"reverse KL {metrics['train/reverse_kl']:.4f} nats/token, {text}"
    return text


def blending(metrics: dict[str, float]) -> str:
    """Mean exponent, and KL spent against the budget; empty where the behaviour has neither."""
    parts: list[str] = []
    if "rollout/exponent" in metrics:
        parts.append(f"exponent {metrics['rollout/exponent']:.3f}")
    if "rollout/kl_spent" in metrics:
        spent = f"KL {metrics['rollout/kl_spent']:.4f}"
        if "rollout/budget" in metrics:
            spent += f" of {metrics['rollout/budget']:.4f} nats"
        parts.append(spent)
    return ", ".join(parts)


def blocks(metrics: dict[str, float]) -> str:
    """How well speculation went, where a teacher judged drafts."""
    return (
        f"{100 * metrics['rollout/acceptance']:.1f} % of drafts accepted, "
        f"{metrics['rollout/tokens_per_round']:.1f} tokens per round, "
        f"{metrics['rollout/teacher_forwards']:.2f} teacher forwards per token"
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as clocks show them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LiveView:
    """A listener that redraws one panel in place. Use it as a context manager.

    Notes and checkpoints are printed above the panel and stay in the terminal's history.
    """

    def __init__(self, title: str, console: Console) -> None:
        self._state = State(title)
        self._console = console
        self._live = Live(
            console=console, refresh_per_second=4, get_renderable=self._draw, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self._state.take(event)
        if isinstance(event, Note):
            self._console.print(Text(event.text, style="yellow" if event.warning else ""))
        elif isinstance(event, Finished):
            self._live.refresh()

    def _draw(self) -> Group:
        state = self._state
        bars = Table.grid(padding=(0, 2))
        bars.add_column(min_width=10, no_wrap=True)
        bars.add_column(no_wrap=True)
        bars.add_column(no_wrap=True, justify="right")
        bars.add_column(no_wrap=True)
        left = state.seconds_left()
        if state.total_steps:
            bars.add_row(
                Text("step", style="bold"),
                ProgressBar(total=state.total_steps, completed=state.step, width=BAR_WIDTH),
                f"{state.step}/{state.total_steps}",
                Text(f"{duration(left)} left" if left else "", style="cyan"),
            )
        else:  # models and data: how long they take nobody knows
            bars.add_row(Text("loading", style="bold"), ProgressBar(total=None, width=BAR_WIDTH))
        phase = state.phase
        if phase is not None:
            bars.add_row(
                phase.name,
                ProgressBar(total=max(1, phase.total), completed=phase.done, width=BAR_WIDTH),
                f"{phase.done}/{phase.total}",
                "" if phase.tokens is None else f"responses, {phase.tokens:,} tokens",
            )
        numbers = Table.grid(padding=(0, 2))
        numbers.add_column(min_width=10, no_wrap=True, style="dim")
        numbers.add_column()
        for label, text in state.facts():
            numbers.add_row(label, text)
        return Group(Text(state.title, style="bold green"), bars, numbers)


class PlainView:
    """A listener that prints one line per event worth keeping: for files, pipes and CI logs."""

    def __init__(
        self, title: str, console: Console, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = State(title, now=now)
        self._console = console
        self._last_line = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def __call__(self, event: Event) -> None:
        state = self._state
        state.take(event)
        if isinstance(event, Started):
            done = f", {event.step} of them done" if event.step else ""
            self._say(f"{state.title}: {event.total_steps} steps{done}, in {event.folder}")
        elif isinstance(event, Note):
            self._say(f"warning: {event.text}" if event.warning else event.text)
        elif isinstance(event, Evaluated):
            self._say(f"step {event.step}: pass@1 {accuracy(event.metrics)}")
        elif isinstance(event, Saved):
            self._say(f"step {event.step}: saved {event.path}")
        elif isinstance(event, Finished):
            how = "interrupted" if event.interrupted else "finished"
            self._say(f"{how} after step {event.step}")
        elif isinstance(event, StepDone):
            self._step(event)

    def _step(self, event: StepDone) -> None:
        now = self._state.now()
        last = event.step == event.total_steps
        if now - self._last_line < SECONDS_BETWEEN_LINES and not last:
            return
        self._last_line = now
        m = event.metrics
        parts = [f"step {event.step}/{event.total_steps}"]
        if loss := losses(m):
            parts.append(loss)
        if blend := blending(m):
            parts.append(blend)
        if "rollout/tokens_per_second" in m:
            parts.append(f"{m['rollout/tokens_per_second']:,.0f} tokens/s")
        left = self._state.seconds_left()
        if left is not None and not last:
            parts.append(f"{duration(left)} left")
        self._say("  ".join(parts))

    def _say(self, text: str) -> None:
        # Never wrapped: one event is one line, whatever reads it.
        self._console.print(Text(text), soft_wrap=True)


def quiet_libraries() -> None:
    """Turn off what libraries write through the view: the progress bars of transformers, and the
    hub client's account of each try where there is no network (what it came to is an error of
    ours)."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()


@contextmanager
def answering(title: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, total): a bar with the time left on a terminal, else nothing."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    shown = (TextColumn("{task.description}"), BarColumn(BAR_WIDTH), MofNCompleteColumn())
    with Progress(*shown, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def view(title: str, console: Console) -> LiveView | PlainView:
    """The view that suits where the output goes."""
    return LiveView(title, console) if console.is_terminal else PlainView(title, console)
