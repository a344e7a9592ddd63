"""Which prompts a roll-out answers: a pure function of the seed and its number, so resuming costs
nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from tandem.tasks.base import Prompt
from tandem.training.parallel import World, share
from tandem.training.sections import RolloutSettings
from tandem.training.teachers import teacher_of
from tandem.types import Request

Encode = Callable[[Prompt], tuple[int, ...]]


class RequestSource:
    """The training prompts that fit, in one random order per epoch, as requests.

    encode_student, encode_teachers: a prompt as each model reads it; of several teachers only the
    one that judges it (teachers.py) counts. rollouts: how many batches of
    responses will be asked for; only as many prompts are encoded as those need. prompts_of: which
    batch of prompts a roll-out asks, both numbered from 0; the same number by default. `dropped`
    counts the prompts met on the way that were longer than the limit for either model: they are
    never cut.

    Raises ValueError where there are no prompts, none is short enough, or one has no teacher.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        encode_student: Encode,
        encode_teachers: Mapping[str, Encode],
        settings: RolloutSettings,
        seed: int,
        rollouts: int,
        prompts_of: Callable[[int], int] = lambda rollout: rollout,
    ) -> None:
        if not prompts:
            raise ValueError("the task has no training prompts; check its data set and split")
        self.settings = settings
        self.seed = seed
        self.dropped = 0
        self._prompts_of = prompts_of
        wanted = settings.prompts_per_step * (1 + max(map(prompts_of, range(rollouts))))
        self.prompts: list[Prompt] = []
        self._encoded: list[tuple[tuple[int, ...], tuple[int, ...], str]] = []
        judges = [teacher_of(prompt, encode_teachers) for prompt in prompts]
        shortest = None
        for i in _shuffled(len(prompts), seed=seed, epoch=0):
            if len(self.prompts) == wanted:
                break
            pair = encode_student(prompts[i]), encode_teachers[judges[i]](prompts[i])
            length = max(map(len, pair))
            shortest = length if shortest is None else min(shortest, length)
            if length > settings.max_prompt_tokens:
                self.dropped += 1
                continue
            self.prompts.append(prompts[i])
            self._encoded.append((*pair, judges[i]))
        if not self.prompts:
            raise ValueError(
                f"all {self.dropped} training prompts are longer than rollout.max_prompt_tokens "
                f"({settings.max_prompt_tokens}); the shortest needs {shortest}"
            )

    def __call__(self, rollout: int, world: World) -> list[Request]:
        """This rank's requests of the roll-out number `rollout`.

        A request's id is its place in the whole run, so draws depend on neither ranks nor batches,
        and a prompt that is asked again is answered anew.
        """
        per_step, samples = self.settings.prompts_per_step, self.settings.samples_per_prompt
        requests: list[Request] = []
        for place in share(per_step, world):
            asked = rollout * per_step + place
            student_ids, teacher_ids, teacher = self._encoded[self._index(asked)]
            requests += [
                Request(asked * samples + s, student_ids, teacher_ids, teacher=teacher)
                for s in range(samples)
            ]
        return requests

    def prompt_of(self, request: Request) -> Prompt:
        """The prompt that `request` came from."""
        return self.prompts[self._index(request.id // self.settings.samples_per_prompt)]

    def _index(self, asked: int) -> int:
        rollout, place = divmod(asked, self.settings.prompts_per_step)
        nth = self._prompts_of(rollout) * self.settings.prompts_per_step + place
        epoch, place = divmod(nth, len(self.prompts))
        # The first epoch's order is the one the prompts were met in.
        return place if epoch == 0 else self._order(epoch)[place]

    def _order(self, epoch: int) -> list[int]:
        return _shuffled(len(self.prompts), seed=self.seed, epoch=epoch)


def _shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    # Seeded by text: the same order in every process and version of Python.
    Random(f"prompts {seed} {epoch}").shuffle(order)
    return order
