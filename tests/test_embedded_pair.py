"""The pair inside the package: it opens, it is small, and it is as good, and as bad, as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tandem.evaluation import EvaluationResult
from tandem.models.character import END_ID, character_tokenizer
from tandem.models.loading import EMBEDDED, load_model
from tandem.models.settings import ModelSettings
from tandem.models.vocabulary import align, same_weights
from tandem.run import evaluate
from tandem.tasks.arithmetic import ALPHABET, Arithmetic
from tandem.training.config import EvaluationSettings
from tandem.training.pretrain import load_pretrain_settings

NAMES = ["teacher", "student"]
RECIPES = Path(__file__).parents[1] / "recipes"


def folder(name: str) -> Path:
    return EMBEDDED[f"embedded:{name}"]


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder(name))


def measure(name: str, *, problems: int, samples: int) -> EvaluationResult:
    """Sampled pass@1 at temperature 1 on held-out chains of three two-digit numbers."""
    return evaluate(
        f"embedded:{name}",
        task=Arithmetic(test_size=2000),
        settings=EvaluationSettings(every=1, problems=problems, samples=samples, split="test"),
        max_prompt_tokens=16,
        max_new_tokens=16,
        slots=256,
        device="cpu",
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_from_pretrained_and_nothing_else(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder(name))
    tokenizer = tokenizer_of(name)
    assert model.config.model_type == "qwen3"
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)


def test_the_teacher_has_about_a_million_parameters_and_the_student_fewer() -> None:
    counts = [load_model(ModelSettings(path=f"embedded:{n}")).model.num_parameters() for n in NAMES]
    assert 750_000 <= counts[0] <= 1_250_000
    assert counts[1] <= 0.8 * counts[0]
    for name, count in zip(NAMES, counts, strict=True):
        card = (folder(name) / "README.md").read_text(encoding="utf-8")
        assert f"{count:,} parameters" in card, f"the card of the {name} states another size"


def test_the_pair_is_under_6_mb() -> None:
    files = [path for name in NAMES for path in folder(name).iterdir()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 6e6


def test_they_share_one_vocabulary_and_one_end_and_are_not_the_same() -> None:
    teacher, student = (load_model(ModelSettings(path=f"embedded:{name}")) for name in NAMES)
    alignment = align(student, teacher)
    assert alignment.size == len(ALPHABET) + 2
    assert alignment.student_end_ids == alignment.teacher_end_ids == (1,)
    assert not same_weights(student, teacher)


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_is_the_one_that_the_code_makes(name: str) -> None:
    assert tokenizer_of(name).get_vocab() == character_tokenizer(ALPHABET).get_vocab()


def test_the_tokenizer_gives_back_every_text_of_its_alphabet() -> None:
    tokenizer = tokenizer_of("student")
    for text in (ALPHABET, "47+38-21=85-21=64", "-33+7=-26", "=", ""):
        ids = tokenizer.encode(text)
        assert len(ids) == len(text), "one id per character, and none added"
        assert tokenizer.decode([*ids, END_ID], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["4*7=", "4 + 7 =", "4\n", "a", "４"])
def test_the_tokenizer_refuses_other_characters(text: str) -> None:
    with pytest.raises(Exception, match=r"Missing \[UNK\] token from the vocabulary"):
        tokenizer_of("student").encode(text)


@pytest.mark.parametrize(
    ("alphabet", "sentence"),
    [("", "must name one or more characters"), ("0120", "remove the repeated '0'")],
)
def test_an_alphabet_that_is_no_alphabet_is_refused(alphabet: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        character_tokenizer(alphabet)


def test_the_recipes_describe_the_models_that_are_there() -> None:
    for name, recipe in (("teacher", "arithmetic_teacher"), ("student", "arithmetic_base")):
        settings = load_pretrain_settings(RECIPES / f"{recipe}.yaml")
        config = AutoConfig.from_pretrained(folder(name))
        kept = settings.prune.keep if settings.prune else range(config.num_hidden_layers)
        assert config.num_hidden_layers == len(kept)
        if settings.shape is not None:
            assert config.hidden_size == settings.shape.hidden
            assert config.intermediate_size == settings.shape.intermediate
        assert str(config.dtype).removeprefix("torch.") == settings.dtype


def test_the_teacher_answers_95_percent_right_on_a_few_problems() -> None:
    score = measure("teacher", problems=256, samples=1)
    assert score.pass_at_1.mean >= 0.95 and score.truncated == 0


def test_the_student_answers_1_to_25_percent_right_on_a_few_problems() -> None:
    score = measure("student", problems=256, samples=2)
    assert 0.01 <= score.pass_at_1.mean <= 0.25


@pytest.mark.slow
def test_the_teacher_answers_95_percent_right_with_95_percent_confidence() -> None:
    assert measure("teacher", problems=2000, samples=2).pass_at_1.low >= 0.95


@pytest.mark.slow
def test_the_student_answers_1_to_25_percent_right_with_95_percent_confidence() -> None:
    found = measure("student", problems=2000, samples=4).pass_at_1
    assert found.low >= 0.01 and found.high <= 0.25


@pytest.mark.slow
def test_the_students_mistakes_are_wrong_numbers_and_not_a_broken_form() -> None:
    score = measure("student", problems=1000, samples=2)
    assert score.no_answer < 0.1 and score.truncated < 0.05
