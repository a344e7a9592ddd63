"""The embedded pair as probes and diagnoses take it, and what plain forwards say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.behaviours.base import Behaviour
from tandem.models.cast import load_cast
from tandem.studies.diagnostics_pair import Pair, Question, pairs_of, questions_of
from tandem.studies.diagnostics_sets import Answers, answers
from tandem.studies.diagnostics_watch import Watched
from tandem.training.config import RunConfig, load_config
from tandem.training.own_recipes import recipe_path
from tandem.types import Clock

# Few problems to draw, and room for every answer that is of the right form.
SMALL = (
    "task.train_size=100",
    "task.validation_size=20",
    "task.test_size=200",
    "rollout.max_new_tokens=16",
)
CLOCK = Clock(0, 10)


@dataclass(frozen=True)
class Case:
    """A pair, its run, and problems of it."""

    config: RunConfig
    pair: Pair
    questions: list[Question]

    def asked(self, law: Behaviour, *, samples: int, top_k: tuple[int, ...] = ()) -> Answers:
        return answers(
            self.pair,
            self.config.task,
            self.questions,
            watched=Watched(law=law, top_k=top_k),
            clock=CLOCK,
            samples=samples,
            on_progress=unwatched("responses"),
        )


def case(problems: int, *overrides: str) -> Case:
    """The embedded pair of the demo's recipe, with problems of the test split."""
    config = load_config(recipe_path("arithmetic"), [*SMALL, *overrides])
    cast = load_cast(config.student, config.teachers_by_name(), None)
    device = torch.device("cpu")
    (pair,) = pairs_of(config, cast, [cast.student], device=device, cache_bytes=None)
    questions = questions_of(pair, config.task.prompts("test")[:problems])
    return Case(config, pair, questions)


def unwatched(name: str) -> Callable[[int, int], None]:
    """The progress of a phase that nobody watches."""
    del name
    return lambda done, total: None


def plain_logp(pair: Pair, question: Question, ids: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log q [T, V] in float64 at each token of a response, by one whole forward each."""
    found: list[Tensor] = []
    for model, prompt in (
        (pair.student, question.student_ids),
        (pair.teachers[question.teacher], question.teacher_ids),
    ):
        whole = torch.tensor([[*prompt, *ids.tolist()]])
        with torch.no_grad():
            logits = model.model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1]
        found.append(torch.log_softmax(logits.double(), -1))
    return found[0], found[1]
