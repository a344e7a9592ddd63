"""The shared vocabulary and the shared end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoTokenizer

from tandem.models.loading import load_model
from tandem.models.settings import ModelSettings
from tandem.models.vocabulary import Alignment, align, canonicalise, same_weights

WORDS = [f"w{i}" for i in range(12)]


def canonical_law_oracle(raw: list[float], own: tuple[int, ...], a: Alignment) -> list[float]:
    """The rule in probabilities, id by id, in float64: keep this model's end mass and the shared
    ids that no model ends with, then renormalise."""
    weight = torch.tensor(raw, dtype=torch.float64).softmax(0).tolist()
    union = set(a.student_end_ids) | set(a.teacher_end_ids)
    law = [0.0 if i in union else weight[i] for i in range(a.size)]
    law[a.end_id] = sum(weight[i] for i in own)
    return [x / sum(law) for x in law]


def law(raw: Tensor, own: tuple[int, ...], alignment: Alignment) -> Tensor:
    return canonicalise(raw, own_end_ids=own, alignment=alignment).softmax(-1)


BASE_AND_CHAT = Alignment(size=3, end_id=0, student_end_ids=(0,), teacher_end_ids=(1, 0))


def test_base_student_and_chat_teacher_by_hand() -> None:
    student = torch.tensor([0.5, 0.2, 0.3]).log()
    # The chat id is no end of the student's: its 0.2 goes, and the rest is divided by 0.8.
    torch.testing.assert_close(law(student, (0,), BASE_AND_CHAT), torch.tensor([0.625, 0, 0.375]))
    teacher = torch.tensor([0.1, 0.4, 0.5]).log()
    # Both are ends of the teacher's: 0.1 + 0.4 on the student's id.
    torch.testing.assert_close(law(teacher, (1, 0), BASE_AND_CHAT), torch.tensor([0.5, 0, 0.5]))


def test_an_end_id_beyond_the_shared_size_by_hand() -> None:
    a = Alignment(size=2, end_id=1, student_end_ids=(1,), teacher_end_ids=(3,))
    teacher = torch.tensor([0.3, 0.2, 0.4, 0.1]).log()
    # Shared ids 0 and 1; the teacher ends with id 3, so its 0.1 stands against the 0.3 of id 0.
    torch.testing.assert_close(law(teacher, (3,), a), torch.tensor([0.75, 0.25]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], tuple[int, ...], Alignment]:
    size, extra = draw(st.integers(3, 9)), draw(st.integers(0, 3))
    ids = st.lists(st.integers(0, size + extra - 1), min_size=1, max_size=3, unique=True)
    student = (draw(st.integers(0, size - 1)), *draw(ids))
    student, teacher = tuple(dict.fromkeys(student)), tuple(draw(ids))
    raw = draw(st.lists(st.floats(-6, 6), min_size=size + extra, max_size=size + extra))
    own = draw(st.sampled_from([student, teacher]))
    return raw, own, Alignment(size, student[0], student, teacher)


@settings(deadline=None, max_examples=300)
@given(cases())
def test_the_law_equals_the_oracle_for_any_sets_of_end_ids(case: Any) -> None:
    raw, own, alignment = case
    expected = torch.tensor(canonical_law_oracle(raw, own, alignment), dtype=torch.float64)
    found = law(torch.tensor(raw, dtype=torch.float64), own, alignment)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_the_end_holds_the_sum_of_its_aliases_and_other_ratios_stay(case: Any) -> None:
    raw, own, alignment = case
    before = torch.tensor(raw, dtype=torch.float64).softmax(0)
    after = law(torch.tensor(raw, dtype=torch.float64), own, alignment)
    union = set(alignment.student_end_ids) | set(alignment.teacher_end_ids)
    others = [i for i in range(alignment.size) if i not in union]
    kept = before[list(own)].sum() + before[others].sum()
    torch.testing.assert_close(after[alignment.end_id], before[list(own)].sum() / kept)
    torch.testing.assert_close(after[others], before[others] / kept)
    assert float(after[[i for i in alignment.aliases if i < alignment.size]].sum()) == 0.0


@pytest.mark.parametrize("own", [(0,), (1, 0), (4, 2)])
def test_gradient_is_right_for_every_set(own: tuple[int, ...]) -> None:
    a = Alignment(size=4, end_id=0, student_end_ids=(0,), teacher_end_ids=own)
    raw = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def expectation(raw: Tensor) -> Tensor:
        return (law(raw, own, a) * weight).sum(-1)

    assert torch.autograd.gradcheck(expectation, raw.requires_grad_())


def test_gradient_of_the_end_is_shared_by_its_aliases_in_proportion() -> None:
    raw = torch.tensor([0.1, 0.4, 0.5], dtype=torch.float64).log().requires_grad_()
    canonicalise(raw, own_end_ids=(1, 0), alignment=BASE_AND_CHAT)[0].backward()
    torch.testing.assert_close(raw.grad, torch.tensor([0.2, 0.8, 0.0], dtype=torch.float64))


def test_one_end_in_common_is_a_slice_and_nothing_else() -> None:
    a = Alignment(size=4, end_id=2, student_end_ids=(2,), teacher_end_ids=(2,))
    raw = torch.randn(5, 6)
    found = canonicalise(raw, own_end_ids=(2,), alignment=a)
    assert found.data_ptr() == raw.data_ptr() and found.shape == (5, 4)


def test_the_input_is_not_modified_and_leading_shapes_do_not_matter() -> None:
    raw = torch.randn(2, 3, 5)
    before = raw.clone()
    a = Alignment(size=4, end_id=0, student_end_ids=(0,), teacher_end_ids=(4, 1))
    found = canonicalise(raw, own_end_ids=(4, 1), alignment=a)
    assert torch.equal(raw, before)
    flat = torch.stack([canonicalise(r, own_end_ids=(4, 1), alignment=a) for r in raw.view(-1, 5)])
    assert torch.equal(found.view(-1, 4), flat)


def test_what_decoding_in_inference_mode_leaves_behind_can_be_trained_with() -> None:
    a = Alignment(size=7, end_id=6, student_end_ids=(6, 5), teacher_end_ids=(4,))
    raw = torch.zeros(2, 8)
    with torch.inference_mode():
        canonicalise(raw, own_end_ids=(6, 5), alignment=a)
    raw.requires_grad_()
    canonicalise(raw, own_end_ids=(6, 5), alignment=a)[:, 6].sum().backward()
    assert raw.grad is not None and raw.grad[0].tolist() == [0, 0, 0, 0, 0, 0.5, 0.5, 0]


def test_shared_size_is_the_smallest_of_rows_and_tokenizer_ids(make_loaded: Any) -> None:
    student = make_loaded(rows=16, words=WORDS, end_ids=(3,))
    teacher = make_loaded(rows=20, words=WORDS, end_ids=(5, 3))
    both = align(student, teacher)
    assert (both.size, both.end_id) == (12, 3)
    assert (both.student_end_ids, both.teacher_end_ids) == ((3,), (5, 3))
    assert both.aliases == (5,)
    assert align(make_loaded(rows=9, words=WORDS, end_ids=(3,)), teacher).size == 9
    alone = align(student)
    assert (alone.size, alone.teacher_end_ids) == (12, ())


def test_extra_chat_tokens_beyond_the_shared_size_are_a_note(make_loaded: Any) -> None:
    student = make_loaded(rows=16, words=WORDS, end_ids=(3,))
    teacher = make_loaded(rows=20, words=[*WORDS, "<think>"], end_ids=(12,), path="chat")
    both = align(student, teacher)
    assert both.size == 12
    assert both.notes == (
        "1 tokens of 'chat' from id 12 on are outside the shared vocabulary",
        "the heads have 16 (the student) and 20 ('chat') rows: both are cut to the shared 12",
    )


def test_a_student_end_outside_the_shared_vocabulary_is_refused(make_loaded: Any) -> None:
    student = make_loaded(rows=16, words=[*WORDS, "<end>"], end_ids=(12,))
    teacher = make_loaded(rows=16, words=WORDS, end_ids=(3,))
    with pytest.raises(ValueError, match=r"first end id 12 is outside the shared vocabulary of 12"):
        align(student, teacher)


def test_different_tokenizers_are_refused_with_ids_and_both_spellings(make_loaded: Any) -> None:
    swapped = [*WORDS[:4], "w5", "w4", *WORDS[6:]]
    student = make_loaded(rows=16, words=WORDS, end_ids=(3,), path="a")
    teacher = make_loaded(rows=16, words=swapped, end_ids=(3,), path="b")
    with pytest.raises(
        ValueError,
        match=r"student 'a' and model 'b' differ on 2 of 12 shared ids, such as "
        r"4 \('w4' / 'w5'\), 5 \('w5' / 'w4'\): use models with one tokenizer",
    ):
        align(student, teacher)


def test_several_teachers_share_one_vocabulary_with_the_student(make_loaded: Any) -> None:
    student = make_loaded(rows=16, words=WORDS, end_ids=(3,))
    small = make_loaded(rows=10, words=WORDS, end_ids=(5, 3))
    other = make_loaded(rows=20, words=WORDS, end_ids=(7,))
    together = align(student, small, other)
    # The smallest of all; the ends of both teachers, none of which may occur in a response.
    assert (together.size, together.end_id) == (10, 3)
    assert (together.teacher_end_ids, together.aliases) == ((5, 3, 7), (5, 7))
    # The student's law is one, whichever teacher judges; each teacher keeps its own end.
    raw = torch.tensor([0.1] * 10, dtype=torch.float64).log()
    expected = torch.tensor([0.0 if i in (5, 7) else 0.125 for i in range(10)])
    torch.testing.assert_close(law(raw, (3,), together), expected.double())
    taught = law(raw, (7,), together)
    assert float(taught[3]) == pytest.approx(0.1 / 0.8) and float(taught[7]) == 0.0
    swapped = make_loaded(rows=16, words=["w1", "w0", *WORDS[2:]], end_ids=(3,), path="b")
    with pytest.raises(ValueError, match=r"student 'tiny' and model 'b' differ on 2 of 10 shared"):
        align(student, small, swapped)


@pytest.mark.data
def test_real_mismatched_tokenizers_are_refused(test_data: Path) -> None:
    folder = test_data / "models"
    stories = load_model(ModelSettings(path=str(folder / "stories260K" / "hf")))
    baby = load_model(ModelSettings(path=str(folder / "babyllama-tok105" / "hf")))
    with pytest.raises(ValueError, match=r"differ on 102 of 105 shared ids, such as 3 \('<0x00>'"):
        align(stories, baby)
    assert align(stories, stories).size == 512


@pytest.mark.data
def test_qwen_rows_of_two_sizes_and_two_end_styles(test_data: Path, make_model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(test_data / "tokenizers" / "qwen3")
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1}
    tiny = load_model(ModelSettings(path=str(test_data / "models" / "stories260K" / "hf")))
    student = replace(
        tiny,
        model=make_model(vocab_size=151_936, **sizes),
        tokenizer=tokenizer,
        end_ids=(151_643,),
    )
    teacher = replace(
        student, model=make_model(vocab_size=152_064, **sizes), end_ids=(151_645, 151_643)
    )
    both = align(student, teacher)
    assert (both.size, both.end_id, both.aliases) == (151_669, 151_643, (151_645,))
    raw = torch.randn(2, 152_064, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = law(raw, teacher.end_ids, both)
    kept = raw[:, :151_669].softmax(-1)
    torch.testing.assert_close(q[:, 151_643], kept[:, [151_643, 151_645]].sum(-1))
    torch.testing.assert_close(q[:, :151_643], kept[:, :151_643])
    p = law(raw[:, :151_936], student.end_ids, both)
    assert p.shape == q.shape and float(p[:, 151_645].max()) == 0.0


def test_same_weights_by_path_by_value_and_across_dtypes(make_loaded: Any, make_model: Any) -> None:
    a = make_loaded(rows=12, words=WORDS, end_ids=(3,), path="one")
    copied = make_loaded(rows=12, words=WORDS, end_ids=(3,), path="two")
    assert same_weights(
        a, replace(copied, model=make_model("llama", vocab_size=12), settings=a.settings)
    )
    assert same_weights(a, copied)
    narrow = replace(copied, model=make_model(vocab_size=12, dtype=torch.bfloat16))
    assert same_weights(a, narrow)
    other = make_loaded(rows=12, words=WORDS, end_ids=(3,), path="three")
    with torch.no_grad():
        other.model.model.norm.weight[0] += 1
    assert not same_weights(a, other)
    shallow = replace(copied, model=make_model(vocab_size=12, num_hidden_layers=1))
    assert not same_weights(a, shallow)
