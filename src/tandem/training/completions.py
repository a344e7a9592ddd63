"""Completions that open responses: a teacher's prefix, or a whole answer that is trained on.

They come from the teacher sampled on the fly, from a dataset's column, or from a folder of the
teacher's samples. What a behaviour gives becomes a fact of the request (`forced_ids`), so that the
rollouts need to know nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tandem.behaviours.base import Behaviour, CompletionSource
from tandem.models.vocabulary import Alignment
from tandem.tasks.base import Prompt
from tandem.training.completion_cache import CompletionCache, Key
from tandem.types import Author, Clock, Request

Ids = tuple[int, ...]


class Completions:
    """Fills in the tokens that a behaviour gives.

    encode: the student's ids of a prompt's dataset completion, the end id appended; None where
    the prompt has none. prompt_of: the prompt that a request came from.
    sample: the teacher alone, at temperature 1, answering requests (it reads `teacher_ids`) with
    at most n new tokens, the end id included where it was drawn. Its draws must depend on the
    requests' ids alone, which have the run's seed folded in.
    limit: the longest response, in tokens. samples_per_prompt: a request's id modulo this is its
    number among the samples of its prompt. seed: of the run. identity: what a kept completion
    depends on besides its prompt: the teachers and the end id.
    rank: a cache is written by each rank in a file of its own.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Prompt], Ids | None],
        prompt_of: Callable[[Request], Prompt],
        sample: Callable[[list[Request], int], list[Ids]],
        limit: int,
        samples_per_prompt: int,
        seed: int,
        identity: str,
        rank: int = 0,
    ) -> None:
        self._encode, self._prompt_of, self._sample = encode, prompt_of, sample
        self._limit, self._samples, self._seed = limit, samples_per_prompt, seed
        self._identity, self._rank = identity, rank
        self._caches: dict[str, CompletionCache] = {}

    def __call__(
        self, requests: Sequence[Request], *, behaviour: Behaviour, clock: Clock
    ) -> list[Request]:
        """The requests, with the tokens that the behaviour gives at this clock as `forced_ids`.

        Raises ValueError for a prompt without a completion where the dataset should have it, and
        for a cache that belongs to something else.
        """
        if not behaviour.gives():
            return list(requests)
        source = behaviour.completion_source()
        if source is None:
            raise ValueError(
                f"behaviour {behaviour.kind!r} gives tokens, but does not say of which "
                "completions: write its completion_source"
            )
        sequence = torch.tensor([r.id for r in requests], dtype=torch.int64)
        given = behaviour.given(clock, sequence=sequence, limit=self._limit, seed=self._seed)
        wanted = {r.id: n for r, n in zip(requests, given.tolist(), strict=True) if n > 0}
        asked = [r for r in requests if r.id in wanted]
        found = self._find(source, asked, longest=max(wanted.values())) if asked else []
        answered = {
            r.id: replace(r, forced_ids=ids[: wanted[r.id]], forced_author=Author.TEACHER)
            for r, ids in zip(asked, found, strict=True)
        }
        return [answered.get(r.id, r) for r in requests]

    def check(self, behaviour: Behaviour, prompts: Sequence[Prompt], *, vocabulary: int) -> None:
        """Raise ValueError where the behaviour would give a dataset's completion that the models
        cannot say: one with an id outside the shared vocabulary, before the longest response's
        end."""
        source = behaviour.completion_source()
        if source is None or source.kind != "dataset":
            return
        for prompt in prompts:
            for outside in (i for i in self._ids(prompt)[: self._limit] if i >= vocabulary):
                raise ValueError(
                    f"the completion of prompt {prompt.id!r} has token id {outside}, but the "
                    f"models share only {vocabulary} ids, 0 to {vocabulary - 1}: write it without "
                    "that token, or leave the prompt out"
                )

    def _find(self, source: CompletionSource, asked: list[Request], *, longest: int) -> list[Ids]:
        if source.kind == "dataset":
            return [self._ids(self._prompt_of(request)) for request in asked]
        if source.kind == "teacher":
            fresh = [replace(r, id=_counter("given", self._seed, r.id)) for r in asked]
            return self._sample(fresh, longest)
        assert source.cache is not None, "a cached completion has a folder"
        return self._kept(source.cache, asked)

    def _ids(self, prompt: Prompt) -> Ids:
        ids = self._encode(prompt)
        if ids is None:
            raise ValueError(_without_completion(prompt))
        return ids

    def _kept(self, folder: str, asked: list[Request]) -> list[Ids]:
        if folder not in self._caches:
            self._caches[folder] = CompletionCache(
                Path(folder), identity=self._identity, limit=self._limit, rank=self._rank
            )
        cache = self._caches[folder]
        keys = [self._key(request) for request in asked]
        if any(key not in cache for key in keys):
            cache.refresh()
        # One each, where several requests ask the same; and what it is does not depend on who asks
        # first, on the rank or on the run.
        missing = {
            key: replace(request, id=_counter("kept", *key))
            for key, request in zip(keys, asked, strict=True)
            if key not in cache
        }
        if missing:
            sampled = self._sample(list(missing.values()), self._limit)
            cache.add(dict(zip(missing, sampled, strict=True)))
        return [cache.read(key) for key in keys]

    def _key(self, request: Request) -> Key:
        text = repr((request.teacher, request.teacher_ids))
        return hashlib.sha256(text.encode()).hexdigest(), request.id % self._samples


def written_ids(
    prompt: Prompt, *, tokenizer: PreTrainedTokenizerBase, alignment: Alignment
) -> Ids | None:
    """The ids of a prompt's dataset completion, ended by the shared end id; None where it has none.

    A text may spell an end itself, in its own template: it ends at the first, on the shared id.
    """
    if not prompt.completion:
        return None
    ends = {alignment.end_id, *alignment.aliases}
    ids = tokenizer.encode(prompt.completion, add_special_tokens=False)
    return (*takewhile(lambda i: i not in ends, ids), alignment.end_id)


def check_completions(behaviour: Behaviour, prompts: Sequence[Prompt]) -> None:
    """Raise ValueError where the behaviour gives a dataset's completions and a prompt has none."""
    source = behaviour.completion_source()
    if source is None or source.kind != "dataset":
        return
    for prompt in prompts:
        if not prompt.completion:
            raise ValueError(_without_completion(prompt))


def _without_completion(prompt: Prompt) -> str:
    return (
        f"prompt {prompt.id!r} has no completion, but behaviour.completions is dataset: fill the "
        "data set's column `completion`, name another by task.completion_column, or set "
        "behaviour.completions to teacher"
    )


def _counter(*parts: object) -> int:
    """A request id that stands for these parts, in 62 bits: two do not meet by chance."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 2
