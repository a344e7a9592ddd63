"""Steps that train on no token: they move nothing, which nobody should find out at the end."""

from __future__ import annotations

from tandem.objectives.base import Objective
from tandem.objectives.supervised import Supervised
from tandem.training.config import RunConfig
from tandem.training.events import Event, Listener, Note, StepDone

TRAINED = "train/trained_tokens"


def warn_of_idle_steps(listener: Listener, config: RunConfig) -> Listener:
    """`listener`, which is told once, before the first such step, why it trained on nothing."""
    line, warned = config.timeline(), False

    def listen(event: Event) -> None:
        nonlocal warned
        if isinstance(event, StepDone) and not warned and event.metrics[TRAINED] == 0.0:
            warned = True
            objective = line.at(event.step - 1).objective
            listener(Note(_sentence(event, config, objective), warning=True))
        listener(event)

    return listen


def _sentence(event: StepDone, config: RunConfig, objective: Objective) -> str:
    given = event.metrics.get("rollout/given")
    if config.rollout.truncated == "drop" and event.metrics["rollout/truncated"] == 1.0:
        why = (
            "all its responses hit rollout.max_new_tokens and rollout.truncated is drop: raise "
            "max_new_tokens, or keep them"
        )
    elif given == 1.0 and objective.reads_sampled():
        why = (
            f"all its tokens were given, and objective {objective.kind} trains on drawn ones: let "
            "the behaviour give less, or use objective supervised"
        )
    elif given == 0.0 and isinstance(objective, Supervised):
        why = (
            "none of its tokens was given, and objective supervised trains on the teacher's text: "
            "end the run there, or go on with another objective in a phase of its own"
        )
    else:
        why = (
            f"objective {objective.kind} gave all its tokens weight 0: see rollout/truncated and "
            "rollout/given in metrics.jsonl"
        )
    return f"step {event.step} trained on no token, so the student stayed as it was; {why}"
