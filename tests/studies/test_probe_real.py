"""Probe and diagnosis with the real Qwen3 vocabulary, two templates and two ends.

TANDEM_TEST_DATA=... python -m pytest -m slow tests/studies/test_probe_real.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pair_cases import unwatched
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tandem.behaviours import Student, TrustRegionBlend
from tandem.models.cast import load_cast
from tandem.studies.diagnose import SHOWN, diagnose, sets_of
from tandem.studies.diagnostics_pair import Pair, Question, pairs_of, questions_of
from tandem.studies.diagnostics_watch import REVERSE_KL
from tandem.studies.probe import Probed, probe
from tandem.training.config import RunConfig, config_from_dict
from tandem.types import Clock

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.timeout(900)]

# A base student ends otherwise than its chat teacher, whose head has rows of padding besides.
SIDES = {"student": (151_936, [151643]), "teacher": (152_064, [151645, 151643])}
BLEND = TrustRegionBlend(budget=0.3, warmup_steps=4)


def save_model(folder: Path, tokenizer: Path, *, rows: int, ends: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    model = Qwen3ForCausalLM(config)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def asked(
    test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Pair, list[Question]]:
    folder = tmp_path_factory.mktemp("pair")
    for seed, (name, (rows, ends)) in enumerate(SIDES.items()):
        tokenizer = test_data / "tokenizers" / "qwen3"
        save_model(folder / name, tokenizer, rows=rows, ends=ends, seed=seed)
    data: dict[str, Any] = {
        "name": "qwen",
        "threads": 1,
        "device": "cpu",
        "student": {"path": str(folder / "student"), "template": "{problem}\nAnswer:"},
        "teacher": {"path": str(folder / "teacher"), "prompt": "chat", "thinking": False},
        "task": {
            "kind": "math",
            "train": str(test_data / "gsm8k_train" / "problems.jsonl"),
            "test": str(test_data / "gsm8k_test" / "problems.jsonl"),
        },
        "behaviour": BLEND.model_dump(),
        "objective": {"kind": "reverse_kl"},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 256,
            "max_new_tokens": 6,
            "slots": 8,
            "block": 2,
            "truncated": "keep",
        },
        "optimizer": {"lr": 1e-5},
        "training": {"steps": 3},
    }
    config = config_from_dict(data)
    cast = load_cast(config.student, config.teachers_by_name(), None)
    (pair,) = pairs_of(config, cast, [cast.student], device=torch.device("cpu"), cache_bytes=None)
    return config, pair, questions_of(pair, config.task.prompts("test")[:3])


def canonical(model: Any, prompt: tuple[int, ...], ids: Tensor, own_end: list[int]) -> Tensor:
    """Log-probs [T, V] in float64 of one whole forward, the end's mass on 151643."""
    with torch.no_grad():
        whole = torch.tensor([[*prompt, *ids.tolist()]])
        logits = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    end = logits[:, own_end].logsumexp(-1)
    # Ids up to the tokenizer's last are shared.
    logits = logits[:, :151_669].clone()
    logits[:, [151643, 151645]] = -torch.inf
    logits[:, 151643] = end
    return torch.log_softmax(logits, -1)


def test_the_diagnosis_is_that_of_plain_forwards(
    asked: tuple[RunConfig, Pair, list[Question]],
) -> None:
    config, pair, questions = asked
    assert pair.alignment.size == 151_669
    sets = sets_of(
        pair, pair, config.task, questions,
        own=BLEND, clock=Clock(0, 3), samples=1, watch=unwatched,
    )  # fmt: skip
    for given in (sets.student, sets.own, sets.teacher):
        for one in given.responses[:2]:
            ids, question = one.rollout.ids, one.question
            assert 151645 not in ids.tolist()
            p = canonical(pair.student.model, question.student_ids, ids, [151643])
            teacher = pair.teachers["teacher"].model
            q = canonical(teacher, question.teacher_ids, ids, [151645, 151643])
            apart = (p.exp() * (p - q).nan_to_num(0.0)).sum(-1)
            assert one.rollout.stats[REVERSE_KL].tolist() == pytest.approx(apart.tolist(), rel=1e-3)
    found = diagnose(pair, sets, [])
    json.dumps(found.as_json(run="x"), allow_nan=False)
    # Random models answer nothing right, and then no score tells right from wrong.
    assert found.scalars["accuracy"].mean == 0.0 and "auroc" not in found.scalars
    assert [p[0] for p in found.curves["replaced_by_top_k"].points] == [1, 2, 4, 8, 15, 25, 50]
    assert len(found.samples) == 3 * min(SHOWN, len(questions))


def test_the_probe_runs_through_with_both_templates(
    asked: tuple[RunConfig, Pair, list[Question]],
) -> None:
    config, pair, questions = asked
    assert all(q.student_ids != q.teacher_ids for q in questions)
    probed = [Probed("student", Student(), Clock(0, 3)), Probed("blend", BLEND, Clock(0, 3))]
    found = probe(
        pair, config.task, questions, probed,
        lengths=(0, 3, 6), samples=1, watch=unwatched,
    )  # fmt: skip
    assert len(found.rows) == 2 * 3 * 2
    assert all(row.success.mean == 0.0 for row in found.rows)
