"""A request that cannot be served, told by its number or, to those who know it, by its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tandem.types import Request


class RequestRefused(ValueError):
    """The engine cannot serve `request`; `problem` is the sentence without its subject."""

    def __init__(self, request: Request, problem: str) -> None:
        super().__init__(f"request {request.id} {problem}")
        self.request, self.problem = request, problem


@contextmanager
def naming_prompts(prompt_id: Callable[[Request], str]) -> Iterator[None]:
    """Let refusals name the prompt: a request's number has its sample and its epoch folded in and
    means nothing to whoever wrote the prompts."""
    try:
        yield
    except RequestRefused as refused:
        raise ValueError(f"prompt {prompt_id(refused.request)!r} {refused.problem}") from None
