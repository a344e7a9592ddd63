"""A data set's completions: their ids, and what the models of a run cannot say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import Sums, save_pair, tiny_model, tiny_recipe

from tandem.models.character import END_ID, character_tokenizer
from tandem.models.vocabulary import Alignment
from tandem.tasks.arithmetic import ALPHABET
from tandem.tasks.base import Prompt
from tandem.training.completions import written_ids
from tandem.training.config import config_from_dict
from tandem.training.parallel import open_world
from tandem.wiring import assemble

TOKENIZER = character_tokenizer(ALPHABET)
MINUS = TOKENIZER.encode("-", add_special_tokens=False)[0]
MIX = {"kind": "off_policy_mix", "on_policy_fraction": 0, "completions": "dataset"}


def spelled(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("12", "12"),
        ("12<end>34", "12"),
        ("12-34", "12"),
        ("1<end>2-3", "1"),
        ("1-2<end>3", "1"),
        ("-12", ""),
    ],
)
def test_a_completion_ends_at_the_first_end_of_any_model(text: str, spoken: str) -> None:
    """The teacher ends with a minus, which is no token of the shared vocabulary's responses."""
    both = Alignment(
        size=15, end_id=END_ID, student_end_ids=(END_ID,), teacher_end_ids=(MINUS, END_ID)
    )
    prompt = Prompt(id="p", messages=(), completion=text)
    assert written_ids(prompt, tokenizer=TOKENIZER, alignment=both) == (*spelled(spoken), END_ID)


def test_a_prompt_without_a_completion_has_no_ids() -> None:
    alone = Alignment(size=15, end_id=END_ID, student_end_ids=(END_ID,))
    assert written_ids(Prompt("p", ()), tokenizer=TOKENIZER, alignment=alone) is None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that knows one token more than its teacher: "@", id 15."""
    folder = tmp_path_factory.mktemp("wider")
    save_pair(folder)
    character_tokenizer(ALPHABET + "@").save_pretrained(folder / "student")
    tiny = tiny_model(1, rows=16)
    assert tiny.generation_config is not None
    tiny.generation_config.eos_token_id = END_ID
    tiny.save_pretrained(folder / "student")
    return folder


def assembled(recipe: dict[str, Any], folder: Path) -> None:
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config_from_dict(recipe), folder, world, lambda event: None)
        del run


def test_a_completion_that_the_models_do_not_share_is_refused_before_the_first_step(
    pair: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(pair) | {"behaviour": MIX, "objective": "supervised"}
    with pytest.raises(ValueError) as caught:
        assembled(recipe | {"task": Sums(completion="+7@", train_size=1)}, tmp_path)
    (prompt,) = Sums(train_size=1).prompts("train")
    assert str(caught.value) == (
        f"the completion of prompt {prompt.id!r} has token id 15, but the models share only 15 "
        "ids, 0 to 14: write it without that token, or leave the prompt out"
    )
    # In a phase too, whatever the recipe's own behaviour gives.
    phases = [{"until_step": 2}, {"behaviour": "student", "objective": {"kind": "reverse_kl"}}]
    with pytest.raises(ValueError, match="has token id 15"):
        assembled(recipe | {"task": Sums(completion="@"), "phases": phases}, tmp_path)


def test_what_is_never_given_is_not_refused(pair: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(pair) | {"behaviour": MIX, "objective": "supervised"}
    short = recipe["rollout"] | {"max_new_tokens": 2}
    assembled(recipe | {"task": Sums(completion="+7@"), "rollout": short}, tmp_path)
    assembled(recipe | {"task": Sums(completion="+7<end>@")}, tmp_path)
    plain = recipe | {"behaviour": "student", "objective": {"kind": "reverse_kl", "top_k": 4}}
    assembled(plain | {"task": Sums(completion="+7@")}, tmp_path)
