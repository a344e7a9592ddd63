"""Given tokens: from the teacher itself, from a data set, and what the engine makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training_tiny import ALIGNMENT, requests, tiny_pair

from tandem.behaviours import Behaviour, OffPolicyMix, Student, TeacherPrefix
from tandem.core.counter import uniform
from tandem.core.sampling import sample
from tandem.models.speaker import Speaker
from tandem.rollout.engine import Engine
from tandem.tasks.base import Prompt
from tandem.training.completions import Completions, check_completions
from tandem.types import Author, Clock, Draw, Request, Rollout, Sampling, SignalSpec

LIMIT, SEED, START = 9, 7, Clock(0, 10)


class Teacher:
    """The teacher alone as a sampler, which notes what it was asked."""

    def __init__(self, teacher: Speaker) -> None:
        self.engine = Engine(teacher, {}, slots=64)
        self.asked: list[tuple[int, int]] = []

    def __call__(self, requests: list[Request], longest: int) -> list[tuple[int, ...]]:
        self.asked.append((len(requests), longest))
        rollouts = self.engine.generate(
            [replace(r, student_ids=r.teacher_ids) for r in requests],
            behaviour=Student(),
            clock=Clock(0, 1),
            sampling=Sampling(longest),
            seed=0,
            record=SignalSpec(),
        )
        return [tuple(rollout.ids.tolist()) for rollout in rollouts]


@pytest.fixture(scope="module")
def pair() -> tuple[Speaker, Speaker]:
    return tiny_pair()


@pytest.fixture
def teacher(pair: tuple[Speaker, Speaker]) -> Teacher:
    return Teacher(pair[1])


def prompt_of(request: Request) -> Prompt:
    written = "" if request.id == 5 else "x" * (request.id % 4)
    turn = {"role": "user", "content": str(request.id)}
    return Prompt(id=f"p{request.id}", messages=(turn,), completion=written)


def encode(prompt: Prompt) -> tuple[int, ...] | None:
    """Every letter is token 9."""
    if prompt.id == "p5":
        return None
    return (9,) * len(prompt.completion) + (ALIGNMENT.end_id,)


def refuse(requests: list[Request], longest: int) -> list[tuple[int, ...]]:
    raise AssertionError(f"{len(requests)} completions of {longest} tokens were asked for")


def completions(sampler: Teacher | None, *, seed: int = SEED, limit: int = LIMIT) -> Completions:
    return Completions(
        encode=encode,
        prompt_of=prompt_of,
        sample=sampler or refuse,
        limit=limit,
        samples_per_prompt=2,
        seed=seed,
        identity="teacher-a",
    )


def roll_out(
    pair: tuple[Speaker, Speaker], asked: Sequence[Request], behaviour: Behaviour, clock: Clock
) -> list[Rollout]:
    return Engine(pair[0], {"teacher": pair[1]}, slots=4).generate(
        asked,
        behaviour=behaviour,
        clock=clock,
        sampling=Sampling(LIMIT),
        seed=SEED,
        record=SignalSpec(),
    )


def lengths(behaviour: Behaviour, asked: Sequence[Request], clock: Clock = START) -> list[int]:
    sequence = torch.tensor([r.id for r in asked])
    return behaviour.given(clock, sequence=sequence, limit=LIMIT, seed=SEED).tolist()


def logp_of(speaker: Speaker, prompt: tuple[int, ...], response: Tensor) -> Tensor:
    """[t, V] from one whole forward without a cache."""
    ids = torch.tensor([[*prompt, *response.tolist()]])
    with torch.no_grad():
        hidden = speaker.hidden(ids, torch.arange(ids.shape[1])[None])[0, len(prompt) - 1 : -1]
        return torch.log_softmax(speaker.logits(hidden), -1)


@pytest.mark.parametrize("behaviour", [Student(), OffPolicyMix(on_policy_fraction=1.0)])
def test_a_behaviour_that_gives_nothing_leaves_requests_as_they_are(behaviour: Behaviour) -> None:
    assert completions(None)(requests(6), behaviour=behaviour, clock=START) == requests(6)
    assert completions(None)([], behaviour=TeacherPrefix(), clock=START) == []


def test_a_prefix_that_has_shrunk_to_nothing_asks_nobody() -> None:
    over = Clock(10, 10)
    assert completions(None)(requests(6), behaviour=TeacherPrefix(), clock=over) == requests(6)


def test_only_what_is_given_is_sampled_and_cut_to_each_ones_own(teacher: Teacher) -> None:
    behaviour, asked, clock = TeacherPrefix(), requests(40), Clock(5, 10)
    wanted = lengths(behaviour, asked, clock)
    assert 0 in wanted and max(wanted) == LIMIT // 2
    answered = completions(teacher)(asked, behaviour=behaviour, clock=clock)
    assert teacher.asked == [(40 - wanted.count(0), max(wanted))]
    ends = 0
    for before, after, n in zip(asked, answered, wanted, strict=True):
        assert replace(after, forced_ids=()) == before
        ended = after.forced_ids[-1:] == (ALIGNMENT.end_id,)
        assert len(after.forced_ids) == n or (ended and len(after.forced_ids) < n)
        assert after.forced_author is Author.TEACHER
        ends += ended
    assert ends, "some completion is shorter than its prefix may be"


def test_the_teacher_begins_and_the_student_goes_on_from_there(
    pair: tuple[Speaker, Speaker], teacher: Teacher
) -> None:
    behaviour = TeacherPrefix()
    asked = completions(teacher)(requests(24), behaviour=behaviour, clock=START)
    mixed = 0
    for rollout in roll_out(pair, asked, behaviour, START):
        n, request = rollout.given, rollout.request
        assert tuple(rollout.ids[:n].tolist()) == request.forced_ids
        assert rollout.tokens().forced.tolist() == [t < n for t in range(len(rollout))]
        assert rollout.author.tolist() == [Author.TEACHER] * n + [Author.STUDENT] * (
            len(rollout) - n
        )
        # What follows is the student's draw at the prefix that the teacher left it.
        logp = logp_of(pair[0], request.student_ids, rollout.ids)
        u = uniform(SEED, torch.tensor(request.id), torch.arange(len(rollout)), Draw.DRAFT)
        assert rollout.ids[n:].tolist() == sample(logp[n:], u[n:]).tolist()
        own = logp.gather(1, rollout.ids[:, None])[:, 0]
        torch.testing.assert_close(rollout.student_logp, own, atol=1e-4, rtol=0.0)
        assert torch.equal(rollout.behaviour_logp, rollout.student_logp)
        mixed += 0 < n < len(rollout)
    assert mixed > 5


def test_given_tokens_come_as_often_as_the_teacher_says(
    pair: tuple[Speaker, Speaker], teacher: Teacher
) -> None:
    n, one = 4000, requests(1)[0]
    asked = [replace(one, id=i) for i in range(n)]
    answered = completions(teacher, limit=1)(
        asked, behaviour=OffPolicyMix(on_policy_fraction=0.0), clock=START
    )
    q = logp_of(pair[1], one.teacher_ids, torch.tensor([0]))[0].double().exp()
    counts = torch.bincount(torch.tensor([r.forced_ids[0] for r in answered]), minlength=len(q))
    z = ((counts - n * q) / (n * q * (1 - q)).sqrt())[q > 1e-3]
    assert z.abs().max() < 4 and len(z) > 5


def test_off_policy_rows_are_whole_answers_of_the_teacher_that_end_as_it_ends(
    pair: tuple[Speaker, Speaker], teacher: Teacher
) -> None:
    behaviour = OffPolicyMix(on_policy_fraction=0.25)
    asked = completions(teacher)(requests(32), behaviour=behaviour, clock=START)
    rollouts = roll_out(pair, asked, behaviour, START)
    assert Counter(bool(r.given) for r in rollouts) == Counter(
        n > 0 for n in lengths(behaviour, asked)
    )
    endings: Counter[str] = Counter()
    for rollout in (r for r in rollouts if r.given):
        assert tuple(rollout.ids.tolist()) == rollout.request.forced_ids
        assert rollout.tokens().forced.all()
        assert (rollout.ids == ALIGNMENT.end_id).sum() == (rollout.ended == "eos")
        assert len(rollout) == LIMIT or rollout.ended == "eos"
        endings[rollout.ended] += 1
    assert endings["eos"] and endings["length"], "both endings are met"


def test_what_is_given_depends_on_seed_and_request_alone(teacher: Teacher) -> None:
    behaviour, asked = TeacherPrefix(prefix="max"), requests(12)
    whole = completions(teacher)(asked, behaviour=behaviour, clock=Clock(3, 10))
    resumed = completions(teacher)
    halves = [
        request
        for part in (asked[6:], asked[:6])
        for request in resumed(part, behaviour=behaviour, clock=Clock(3, 10))
    ]
    assert halves[6:] + halves[:6] == whole
    assert completions(teacher, seed=8)(asked, behaviour=behaviour, clock=Clock(3, 10)) != whole


def test_a_data_sets_completion_is_given_to_its_end_or_to_the_limit() -> None:
    behaviour = OffPolicyMix(completions="dataset", on_policy_fraction=0.0)
    asked = requests(4)
    answered = completions(None)(asked, behaviour=behaviour, clock=START)
    assert [r.forced_ids for r in answered] == [(1,), (9, 1), (9, 9, 1), (9, 9, 9, 1)]
    cut = completions(None, limit=2)(asked, behaviour=behaviour, clock=START)
    assert [r.forced_ids for r in cut] == [(1,), (9, 1), (9, 9), (9, 9)]


SENTENCE = (
    "prompt 'p5' has no completion, but behaviour.completions is dataset: fill the data set's "
    "column `completion`, name another by task.completion_column, or set behaviour.completions to "
    "teacher"
)


def test_a_prompt_without_a_completion_is_refused_where_the_data_set_should_have_one() -> None:
    behaviour = OffPolicyMix(completions="dataset", on_policy_fraction=0.0)
    with pytest.raises(ValueError) as caught:
        completions(None)(requests(6), behaviour=behaviour, clock=START)
    assert str(caught.value) == SENTENCE


def test_a_data_set_can_be_checked_before_the_run() -> None:
    prompts = [prompt_of(r) for r in requests(6)[1:4]]
    lacking = [*prompts, prompt_of(requests(6)[5])]
    behaviour = TeacherPrefix(completions="dataset")
    check_completions(behaviour, prompts)
    for other in (Student(), TeacherPrefix(), OffPolicyMix()):
        check_completions(other, lacking)
    with pytest.raises(ValueError) as caught:
        check_completions(behaviour, lacking)
    assert str(caught.value) == SENTENCE


class Nameless(TeacherPrefix):
    """A method of somebody's that forgets to say where its tokens come from."""

    def completion_source(self) -> None:
        return None


def test_a_method_that_gives_has_to_say_what() -> None:
    with pytest.raises(ValueError) as caught:
        completions(None)(requests(1), behaviour=Nameless(), clock=START)
    assert str(caught.value) == (
        "behaviour 'teacher_prefix' gives tokens, but does not say of which completions: write "
        "its completion_source"
    )
