"""The arithmetic of the dry run, against sizes that are counted or worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tandem.behaviours import Student, Teacher
from tandem.front.dry_run import schedule, token_budget
from tandem.front.memory import parts, peak
from tandem.front.shapes import Shape, model_shape, shape_of
from tandem.training.config import EvaluationSettings, PhaseSettings, RunConfig

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
}


def _shape(parameters: int) -> Shape:
    return Shape(parameters, 100, layers=2, hidden=8, intermediate=16, rows=50, source="hand")


def test_published_qwen3_sizes_are_the_ones_on_the_model_cards() -> None:
    # Parameters of the released safetensors files.
    assert model_shape("Qwen/Qwen3-0.6B-Base").parameters == 596_049_920
    assert model_shape("Qwen/Qwen3-1.7B-Base").parameters == 1_720_574_976
    assert model_shape("Qwen/Qwen3-4B").parameters == 4_022_468_096
    assert model_shape("Qwen/Qwen3-8B").parameters == 8_190_735_360
    # 28 layers × 2 × 8 heads × 128: 112 KiB per token in bf16.
    assert model_shape("Qwen/Qwen3-1.7B-Base").cache_values * 2 == 112 * 1024


def test_parameters_are_those_of_the_model_that_would_be_built() -> None:
    qwen = Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)
    llama = LlamaConfig(**SMALL, tie_word_embeddings=True)
    for config, built in ((qwen, Qwen3ForCausalLM(qwen)), (llama, LlamaForCausalLM(llama))):
        parameters = sum(p.numel() for p in built.parameters())
        assert shape_of(config, source="test").parameters == parameters


def test_a_model_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="sizes of model 'nobody/nothing' are not to be had"):
        model_shape("nobody/nothing")


def test_memory_adds_up_by_hand(config: RunConfig) -> None:
    components = parts(config, student=_shape(1000), teachers={"teacher": _shape(3000)})
    got = {part.name: part.bytes for part in components}
    # 2 prompts × 3 samples = 6 responses in 4 slots of 8 + 16 tokens; all fp32.
    assert got == {
        "student weights": 4000,
        "AdamW moments": 8000,
        "student that rolls out": 4000,
        "teacher weights": 12000,
        "student cache": 4 * 24 * 400,
        "teacher cache": 4 * 24 * 400,
        "vocabulary vectors": 4 * 8 * 50 * 4 * 8,  # 4 slots, 8 drafts
        "gradients": 4000,
        "activations": 64 * 2 * (80 + 64) * 4,
        "teacher's one layer": 64 * (32 + 48) * 4,
        "head chunks": 5 * 64 * 50 * 4,
        "head gradient": 4 * 50 * 8,
    }
    standing = 4000 + 8000 + 4000 + 12000
    update = 4000 + 64 * 2 * 144 * 4 + 64 * 80 * 4 + 5 * 64 * 50 * 4 + 1600
    assert peak(components) == standing + update


def test_without_a_blend_no_teacher_cache_is_counted(config: RunConfig) -> None:
    plain = config.model_copy(update={"behaviour": Student()})
    names = [
        part.name for part in parts(plain, student=_shape(1000), teachers={"teacher": _shape(3000)})
    ]
    assert "student cache" in names and "teacher cache" not in names


def test_vllm_wants_the_weights_and_the_cache_once_more(config: RunConfig) -> None:
    rollout = config.rollout.model_copy(update={"engine": "vllm"})
    asking = config.model_copy(update={"rollout": rollout})
    shapes = {"student": _shape(1000), "teachers": {"teacher": _shape(3000)}}
    more = {part.name: part.bytes for part in parts(asking, **shapes)}
    assert more.pop("vLLM weights and cache") == 4000 + 4 * 24 * 400
    assert more == {part.name: part.bytes for part in parts(config, **shapes)}


def test_token_budget_by_hand(config: RunConfig) -> None:
    evaluated = config.model_copy(
        update={"evaluation": EvaluationSettings(every=4, problems=5, samples=2)}
    )
    assert token_budget(evaluated) == [
        "6 responses per step (2 prompts × 3), 60 in 10 steps",
        "at most 96 response tokens per step, 960 in all",
        "at most 144 tokens per update, prompts included",
        "20 prompts drawn",
        # Before, after steps 4, 8 and 10: 4 × 10 × 16.
        "4 evaluations of 5 problems × 2 samples (validation): at most 640 tokens",
    ]


def test_schedule_names_the_steps_that_read_the_teacher(config: RunConfig) -> None:
    lines = schedule(config)
    assert "in 4 of 10 steps (1 to 4)" in lines[0]
    assert lines[1:] == [
        "step 1: 0.10000 nats per token",
        "step 2: 0.07500 nats per token",
        "step 3: 0.05000 nats per token",
        "step 4: 0.02500 nats per token",
    ]


def test_schedule_tells_of_every_phase(config: RunConfig) -> None:
    phases = (
        PhaseSettings(until_step=3, behaviour=Teacher()),
        PhaseSettings(prompts="restart", optimizer="reset"),
    )
    assert schedule(config.model_copy(update={"phases": phases})) == [
        "steps 1 to 3: teacher, reverse_kl",
        "teacher: the teacher is read in 3 of 3 steps (1 to 3), where it costs no second pass",
        "steps 4 to 10: trust_region_blend, reverse_kl, prompts again from the first, AdamW reset",
        "trust_region_blend: the teacher is read in 4 of 7 steps (4 to 7), where it costs no "
        "second pass",
        "step 4: 0.10000 nats per token",
        "step 5: 0.07500 nats per token",
        "step 6: 0.05000 nats per token",
        "step 7: 0.02500 nats per token",
    ]


def test_responses_that_serve_several_updates_are_counted_once(config: RunConfig) -> None:
    training = config.training.model_copy(update={"updates_per_rollout": 5})
    assert token_budget(config.model_copy(update={"training": training})) == [
        "6 responses per roll-out, which serves 5 updates (2 prompts × 3), 12 in 10 steps",
        "at most 96 response tokens per roll-out, 192 in all",
        "at most 144 tokens per update, prompts included",
        "4 prompts drawn",
    ]


def test_a_phase_that_reads_the_teacher_wants_its_cache(config: RunConfig) -> None:
    phased = {"behaviour": Student(), "phases": (PhaseSettings(until_step=3, behaviour=Teacher()),)}
    shapes = {"student": _shape(1000), "teachers": {"teacher": _shape(3000)}}
    names = [part.name for part in parts(config.model_copy(update=phased), **shapes)]
    assert "teacher cache" in names
