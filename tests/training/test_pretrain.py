"""Pretraining: the corpus, the loss on answers, pruning, and the same weights for the same seed."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from tandem.models.character import END_ID, PAD_ID, character_tokenizer
from tandem.tasks.arithmetic import ALPHABET, Arithmetic, split_of, worked
from tandem.training.components import build
from tandem.training.corpus import CorpusSettings, draw, write
from tandem.training.pretrain import (
    IGNORED,
    PretrainSettings,
    answer_loss,
    encode_texts,
    keep_layers,
    load_pretrain_settings,
    pretrain,
)

RECIPES = Path(__file__).parents[2] / "recipes"


def settings(**changes: Any) -> PretrainSettings:
    data: dict[str, Any] = {
        "name": "tiny",
        "task": {
            "operands": 2,
            "digits": 1,
            "train_size": 40,
            "validation_size": 2,
            "test_size": 4,
        },
        "shape": {
            "hidden": 32,
            "layers": 3,
            "heads": 2,
            "kv_heads": 1,
            "head_dim": 16,
            "intermediate": 48,
        },
        "steps": 12,
        "batch": 16,
        "optimizer": {"lr": 5e-3, "betas": [0.9, 0.98]},
    }
    return build(PretrainSettings, data | changes, place="", source="test")


def tiny_model() -> Any:
    from tandem.training.pretrain import _beginning

    return _beginning(settings())[0]


def test_careful_writers_write_the_worked_answer() -> None:
    source = Random(0)
    prompts = Arithmetic(train_size=200, validation_size=2, test_size=2).prompts("train")
    for prompt in prompts:
        assert write(prompt.text, CorpusSettings(), source) == worked(prompt.text)
    assert write("12-45+7=", CorpusSettings(), source) == "-33+7=-26"


def test_a_misprint_is_carried_on_from_as_written() -> None:
    source = Random(1)
    careless = CorpusSettings(misprints=0.5)
    texts = [write("47+38-21=", careless, source) for _ in range(200)]
    for text in texts:
        step, result = text.split("=")
        assert step.endswith("-21") and len(step) == len("85-21")
        right = str(int(step.removesuffix("-21")) - 21)
        assert len(result) == len(right) and result.startswith("-") == right.startswith("-")
    # Two digits, each wrong with chance 0.5 · 9/10: the first step is right in 0.55² of texts.
    share = sum(text.startswith("85-") for text in texts) / len(texts)
    assert abs(share - 0.3025) < 4 * (0.3025 * 0.6975 / 200) ** 0.5


def test_the_corpus_holds_training_problems_alone() -> None:
    problems = [prompt.text for prompt in settings().task.prompts("train")]
    texts = draw(problems, 64, CorpusSettings(), Random(0))
    assert {split_of(problem) for problem, _ in texts} == {"train"}


def test_only_answers_and_their_end_carry_loss() -> None:
    tokenizer = character_tokenizer(ALPHABET)
    ids, labels = encode_texts(tokenizer, [("1+2=", "3"), ("9+9=", "18")])
    vocabulary = tokenizer.get_vocab()
    one, two, three, eight, nine, plus, equals = (vocabulary[mark] for mark in "12389+=")
    assert ids.tolist() == [
        [one, plus, two, equals, three, END_ID, PAD_ID],
        [nine, plus, nine, equals, one, eight, END_ID],
    ]
    assert labels.tolist() == [
        [IGNORED] * 4 + [three, END_ID, IGNORED],
        [IGNORED] * 4 + [one, eight, END_ID],
    ]


def test_loss_is_the_mean_over_answer_tokens_and_padding_adds_nothing() -> None:
    model, tokenizer = tiny_model(), character_tokenizer(ALPHABET)
    texts = [("1+2=", "3"), ("9+9=", "18")]
    total, count = 0.0, 0
    with torch.no_grad():
        found = float(answer_loss(model, *encode_texts(tokenizer, texts)))
        for problem, answer in texts:  # one at a time, without padding, by hand
            ids = torch.tensor([[*tokenizer.encode(problem), *tokenizer.encode(answer), END_ID]])
            logp = model(input_ids=ids).logits.double().log_softmax(-1)[0]
            for place in range(len(problem), ids.shape[1]):
                total -= float(logp[place - 1, ids[0, place]])
                count += 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_the_loss_falls(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = pretrain(settings(), output=tmp_path / "a")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = pretrain(settings(), output=tmp_path / "b")
    other = pretrain(settings(seed=1), output=tmp_path / "c")
    assert first.losses == second.losses != other.losses
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert first.losses[-1] < 0.75 * first.losses[0]
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "global random numbers were used"


def test_what_it_writes_opens_with_from_pretrained(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = pretrain(
        settings(steps=2), output=tmp_path, on_step=lambda done, of, loss: told.append((done, of))
    )
    assert told == [(1, 2), (2, 2)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16 and model.num_parameters() == result.parameters
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD_ID, END_ID)
    assert model.generation_config.eos_token_id == END_ID


def test_pruning_keeps_exactly_the_named_layers() -> None:
    model = tiny_model()
    pruned = keep_layers(model, (0, 2))
    assert isinstance(pruned, Qwen3ForCausalLM) and pruned.config.num_hidden_layers == 2
    ours, theirs = pruned.state_dict(), model.state_dict()
    place = {"0": "0", "1": "2"}
    for name, weight in ours.items():
        parts = name.split(".")
        if ".layers." in name:
            parts[2] = place[parts[2]]
        assert torch.equal(weight, theirs[".".join(parts)]), name
    assert len(theirs) - len(ours) == sum(".layers.1." in name for name in theirs)


def test_a_pruned_model_computes_with_the_kept_layers_alone() -> None:
    model = tiny_model().eval()
    ids = torch.tensor([[2, 3, 12, 4, 14]])
    body = model.model
    with torch.no_grad():
        pruned = keep_layers(model, (0, 2)).eval()(input_ids=ids).logits
        body.layers[1] = _Through()
        assert torch.equal(model(input_ids=ids).logits, pruned)


class _Through(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        del rest, named
        return hidden


def test_pruning_alone_saves_the_kept_weights(tmp_path: Path) -> None:
    pretrain(settings(dtype="float32"), output=tmp_path / "whole")
    change = {"shape": None, "prune": {"path": str(tmp_path / "whole"), "keep": [0, 1]}}
    pretrain(settings(**change, steps=0, dtype="float32"), output=tmp_path / "less")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    less = AutoModelForCausalLM.from_pretrained(tmp_path / "less").state_dict()
    assert less and all(torch.equal(weight, whole[name]) for name, weight in less.items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": None}, "gives neither of shape and prune"),
        ({"prune": {"path": "x", "keep": [0]}}, "gives both of shape and prune"),
        ({"shape": None, "prune": {"path": "x", "keep": [2, 0]}}, "keep is [2, 0], but layers"),
        ({"setps": 3}, "unknown key 'setps' in test; did you mean 'steps'?"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        settings(**changes)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_layer_that_does_not_exist_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="layer 3 cannot be kept: the model has 3 layers"):
        keep_layers(tiny_model(), (0, 3))


@pytest.mark.parametrize("name", ["arithmetic_teacher", "arithmetic_base"])
def test_the_recipes_of_the_embedded_pair_can_be_read_and_overridden(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    found = load_pretrain_settings(path, ["seed=3", "optimizer.lr=0.5"])
    assert (found.seed, found.optimizer.lr) == (3, 0.5)
    with pytest.raises(ValueError, match="no recipe"):
        load_pretrain_settings(path.with_name("absent.yaml"))
