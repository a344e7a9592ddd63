"""Two models are told apart by their weights, and a cache of completions by its teachers'."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM, PreTrainedModel

from tandem.training.config import config_from_dict
from tandem.training.fingerprint import NUMBERS_READ, fingerprint
from tandem.training.parallel import open_world
from tandem.types import Clock, Request
from tandem.wiring import assemble


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_copy_has_the_same_fingerprint_and_every_tensor_counts(tmp_path: Path) -> None:
    model = tiny_model(1, rows=16)
    model.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = fingerprint(loaded(tmp_path / "a"))
    assert fingerprint(loaded(tmp_path / "b")) == first
    found = {first}
    for name, _ in model.named_parameters():
        other = loaded(tmp_path / "a")
        with torch.no_grad():
            other.get_parameter(name).mul_(1.01).add_(1e-3)
        found.add(fingerprint(other))
    assert len(found) == 1 + len(list(model.named_parameters()))


def test_the_first_and_the_last_numbers_of_a_large_tensor_are_read() -> None:
    model = tiny_model(1, rows=40)
    weight = model.get_parameter("model.embed_tokens.weight").detach().view(-1)
    assert len(weight) > NUMBERS_READ
    found = [fingerprint(model)]
    for place in (0, -1):
        weight[place] += 1.0
        found.append(fingerprint(model))
    assert len(set(found)) == 3


def test_the_same_weights_under_another_configuration_are_another_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(1, rows=16)
    before = fingerprint(model)
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0")
    assert fingerprint(model) == before, "it stays through an update of the library"
    model.config.rms_norm_eps = 0.1
    assert fingerprint(model) != before


def give(recipe: dict[str, Any], folder: Path, *teachers: str) -> list[tuple[int, ...]]:
    """What one request for each of these teachers is given."""
    config = config_from_dict(recipe)
    with open_world(torch.device("cpu")) as world:
        run, _ = assemble(config, folder, world, lambda event: None)
        asked = [Request(2 * i, (5,), (6, 4), teacher=name) for i, name in enumerate(teachers)]
        given = run.completions(asked, behaviour=config.behaviour, clock=Clock(0, 4))
        del run
    return [request.forced_ids for request in given]


def caching(pair: Path, tmp_path: Path) -> dict[str, Any]:
    cache = {"completions": "cache", "cache": str(tmp_path / "cache")}
    behaviour = {"kind": "off_policy_mix", "on_policy_fraction": 0} | cache
    return tiny_recipe(pair) | {"behaviour": behaviour, "objective": "supervised"}


def test_new_weights_at_the_same_path_do_not_answer_from_the_old_ones_cache(
    pair: Path, tmp_path: Path
) -> None:
    shutil.copytree(pair, tmp_path / "pair")
    recipe = caching(tmp_path / "pair", tmp_path)
    before = give(recipe, tmp_path, "teacher")
    # Copied again, with other dates, they are the same weights.
    shutil.rmtree(tmp_path / "pair")
    shutil.copytree(pair, tmp_path / "pair", copy_function=shutil.copyfile)
    assert give(recipe, tmp_path, "teacher") == before
    teacher = tmp_path / "pair" / "teacher"
    model = loaded(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    old = fingerprint(loaded(teacher))
    model.save_pretrained(teacher)
    with pytest.raises(
        ValueError,
        match=rf"holds answers of .*, weights {old}\) .*, not of .*, weights [0-9a-f]+\)",
    ):
        give(recipe, tmp_path, "teacher")


def test_teachers_that_changed_names_do_not_answer_for_each_other(
    pair: Path, tmp_path: Path
) -> None:
    recipe = caching(pair, tmp_path)
    strong, weak = recipe.pop("teacher"), recipe["student"]
    # The same two in the same order; only "arithmetic" means another one.
    before = {"arithmetic": strong, "b": weak}
    after = {"a": strong, "arithmetic": weak}
    give(recipe | {"teachers": before}, tmp_path, *before)
    with pytest.raises(ValueError, match=r"holds answers of arithmetic: .*, b: .*, not of a: .*"):
        give(recipe | {"teachers": after}, tmp_path, *after)
