"""What a run did to its student, token by token, beside its teacher and the student before.

Every set of responses is drawn by one law at one prefix after another, and both models score every
prefix; docs/analyses.md says how each number is made. TRB's analyses are those of arXiv 2605.31159,
the outlier share that of arXiv 2606.01249.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.behaviours import FixedBudgetBlend, Teacher
from tandem.behaviours.base import Behaviour
from tandem.evaluation.intervals import Interval
from tandem.studies.diagnostics_numbers import (
    CHANCE,
    EXPONENT,
    LOGPROB,
    NATS,
    RATIO,
    Curve,
    by_position,
    curve_of_rows,
    histogram,
    quantiles_by_position,
)
from tandem.studies.diagnostics_pair import Pair, Question, Watch
from tandem.studies.diagnostics_sets import (
    LOG_RATIO,
    STUDENT_ENTROPY,
    TEACHER_ENTROPY,
    TEACHER_LOGPROB,
    Answers,
    answers,
)
from tandem.studies.diagnostics_watch import OUTLIER, OUTSIDE, REVERSE_KL, Watched
from tandem.tasks.base import Task
from tandem.types import Clock

# The grid of arXiv 2605.31159, and no budget, which is the student itself.
BUDGETS = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)
# Of TRB's plotted run: what a student is blended with whose own run blends nothing.
PLOTTED = 0.02
TOP_K = (1, 2, 4, 8, 15, 25, 50)
SHOWN = 8
"""Problems whose responses are kept for a reader."""
LOGGED = {
    "train/grad_norm": "norm before clipping",
    "train/reverse_kl": "nats per token",
    "train/student_entropy": "nats per token",
    "train/outlier_share": "share of tokens",
    "rollout/teacher_entropy": "nats per token",
    "rollout/exponent": "exponent",
    "rollout/kl_spent": "nats per token",
    "rollout/budget": "nats per token",
    "rollout/replaced": "share of tokens",
}
"""Metrics of the run that are curves over its steps, where it logged them, with their units."""
# Statistics of a behaviour whose distribution is worth seeing.
SPENT = {"exponent": EXPONENT, "kl_spent": NATS}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What diagnose.json holds besides the names of the run and its model."""

    scalars: dict[str, Interval]
    curves: dict[str, Curve]
    histograms: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]

    def as_json(self, **about: str | int) -> dict[str, Any]:
        """diagnose.json; about: run, checkpoint, problems, samples_per_problem and what else."""
        return {
            "schema": 1,
            **about,
            "scalars": {
                name: {"mean": x.mean, "low": x.low, "high": x.high}
                for name, x in self.scalars.items()
            },
            "curves": {name: curve.as_json() for name, curve in self.curves.items()},
            "histograms": self.histograms,
            "samples": self.samples,
        }


@dataclass(frozen=True, slots=True)
class Sets:
    """The responses that are looked at, all to the same questions.

    blends: of the student by the budget that the teacher is blended in with; 0 is the student
    itself. own: of the run's own behaviour, or of a blend within PLOTTED. before: of the student
    before the run.
    """

    blends: dict[float, Answers]
    own: Answers
    teacher: Answers
    before: Answers

    @property
    def student(self) -> Answers:
        return self.blends[0.0]


def sets_of(
    pair: Pair,
    before: Pair,
    task: Task,
    questions: Sequence[Question],
    *,
    own: Behaviour,
    clock: Clock,
    samples: int,
    watch: Watch,
) -> Sets:
    """Sample all of them. own: what draws the run's tokens at `clock`."""
    size = pair.alignment.size
    blends = {budget: FixedBudgetBlend(budget=budget) for budget in BUDGETS}
    laws: dict[str, tuple[Pair, Behaviour]] = {
        **{f"blend {budget}": (pair, law) for budget, law in blends.items()},
        "own": (pair, own),
        "teacher": (pair, Teacher()),
        "before": (before, blends[0.0]),
    }
    tell, each = watch("responses"), len(questions) * samples
    found = {
        name: answers(
            speaking,
            task,
            questions,
            watched=Watched(law=law, top_k=tuple(k for k in TOP_K if k < size)),
            clock=clock,
            samples=samples,
            on_progress=lambda done, _, i=i: tell(i * each + done, len(laws) * each),
        )
        for i, (name, (speaking, law)) in enumerate(laws.items())
    }
    return Sets(
        {budget: found[f"blend {budget}"] for budget in BUDGETS},
        found["own"],
        found["teacher"],
        found["before"],
    )


def watched_law(behaviour: Behaviour, clock: Clock) -> Behaviour:
    """What draws a run's tokens, as far as the teacher has a say in it: its behaviour, or the blend
    within PLOTTED where the student is alone or completions are given."""
    if behaviour.needs_teacher(clock) and not behaviour.gives():
        return behaviour
    return FixedBudgetBlend(budget=PLOTTED)


def diagnose(pair: Pair, sets: Sets, metrics: Sequence[dict[str, Any]]) -> Diagnosis:
    """Everything that is said of those responses. metrics: the rows of the run's metrics.jsonl."""
    curves = {**_along(sets.student), **_spending(sets.own), **_by_budget(sets.blends)}
    curves["replaced_by_top_k"] = _by_top_k(sets.student)
    for key, unit in LOGGED.items():
        curve = curve_of_rows(metrics, key, unit=unit)
        if curve.points:
            curves[key] = curve
    return Diagnosis(
        scalars=_scalars(sets),
        curves=curves,
        histograms={
            name: histogram(sets.own.tokens.columns[name], scale)
            for name, scale in SPENT.items()
            if name in sets.own.tokens.columns
        },
        samples=[
            shown
            for who, given in (
                ("student before", sets.before),
                ("student after", sets.student),
                ("teacher", sets.teacher),
            )
            for shown in _shown(pair, who, given)
        ],
    )


def _scalars(sets: Sets) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for suffix, given in (
        ("", sets.student),
        ("_before", sets.before),
        ("_teacher", sets.teacher),
    ):
        mean = given.tokens.mean
        found |= {
            f"accuracy{suffix}": given.accuracy(),
            f"length{suffix}": given.length(),
            f"truncated{suffix}": given.truncated(),
            f"teacher_entropy{suffix}": mean(TEACHER_ENTROPY, NATS),
            f"student_entropy{suffix}": mean(STUDENT_ENTROPY, NATS),
            f"teacher_logprob{suffix}": mean(TEACHER_LOGPROB, LOGPROB),
            f"log_ratio{suffix}": mean(LOG_RATIO, RATIO),
            f"reverse_kl{suffix}": mean(REVERSE_KL, NATS),
            f"outlier_share{suffix}": mean(OUTLIER, CHANCE),
        }
        area = given.told_apart()
        if area is not None:
            found[f"auroc{suffix}"] = area
    own = sets.own.tokens
    for name, scale in (*SPENT.items(), ("replaced", CHANCE)):
        if name in own.columns:
            found[name] = own.mean(name, scale)
    return found


def _along(student: Answers) -> dict[str, Curve]:
    """Means over the places of the student's own responses."""
    tokens = student.tokens
    return {
        "teacher_entropy_by_position": by_position(tokens, TEACHER_ENTROPY, NATS),
        "student_entropy_by_position": by_position(tokens, STUDENT_ENTROPY, NATS),
        "reverse_kl_by_position": by_position(tokens, REVERSE_KL, NATS),
        "outlier_share_by_position": by_position(tokens, OUTLIER, CHANCE),
    }


def _spending(own: Answers) -> dict[str, Curve]:
    """How much of the teacher is blended in at each place."""
    found: dict[str, Curve] = {}
    for name, scale in SPENT.items():
        if name in own.tokens.columns:
            found[f"{name}_by_position"] = by_position(own.tokens, name, scale)
            for label, curve in quantiles_by_position(own.tokens, name, scale).items():
                found[f"{name}_by_position, {label}"] = curve
    return found


def _by_budget(blends: Mapping[float, Answers]) -> dict[str, Curve]:
    """What the teacher's share in the responses does to them."""
    x = "KL budget ε, nats"
    found = {
        "accuracy_by_budget": Curve("share of responses", x),
        "teacher_logprob_by_budget": Curve(NATS.unit, x),
        "teacher_entropy_by_budget": Curve(NATS.unit, x),
        "auroc_by_budget": Curve("AUROC of mean(log q − log p)", x),
        "exponent_by_budget": Curve("exponent", x),
        "kl_spent_by_budget": Curve(NATS.unit, x),
    }
    for budget, given in blends.items():
        mean = given.tokens.mean
        found["accuracy_by_budget"].add(budget, given.accuracy())
        found["teacher_logprob_by_budget"].add(budget, mean(TEACHER_LOGPROB, LOGPROB))
        found["teacher_entropy_by_budget"].add(budget, mean(TEACHER_ENTROPY, NATS))
        found["exponent_by_budget"].add(budget, mean("exponent", EXPONENT))
        found["kl_spent_by_budget"].add(budget, mean("kl_spent", NATS))
        area = given.told_apart()
        if area is not None:
            found["auroc_by_budget"].add(budget, area)
    return {name: curve for name, curve in found.items() if curve.points}


def _by_top_k(student: Answers) -> Curve:
    """How often SKD would replace the student's token, by how many ids the teacher accepts."""
    curve = Curve("share of tokens replaced", "ids the teacher accepts")
    for name in student.tokens.columns:
        if name.startswith(OUTSIDE):
            top_k = int(name.removeprefix(OUTSIDE))
            curve.add(top_k, student.tokens.mean(name, CHANCE))
    return curve


def _shown(pair: Pair, who: str, given: Answers) -> list[dict[str, Any]]:
    """The first response to each of the first problems, with KL(student‖teacher) at each token."""
    decode = pair.student.tokenizer.decode
    firsts = given.responses[:: given.samples][:SHOWN]
    return [
        {
            "prompt": one.question.prompt.text,
            "who": who,
            "text": one.text,
            "tokens": [decode([i]) for i in one.rollout.ids.tolist()],
            "values": [round(v, 6) for v in one.rollout.stats[REVERSE_KL].tolist()],
            "value": "kl",
            "correct": one.correct,
        }
        for one in firsts
    ]
