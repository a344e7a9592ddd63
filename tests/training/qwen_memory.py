"""Three TRB steps on GSM8K prompts with the real Qwen3 tokenizer, and the memory they took.

    python tests/training/qwen_memory.py $TANDEM_TEST_DATA FOLDER

The pair has random weights: a base student of 151,936 rows that reads plain text and ends with
151643, a chat teacher of 152,064 rows that reads its template and ends with 151645 or 151643.
Prints one JSON object last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tandem.run import train
from tandem.training.config import config_from_dict
from tandem.training.rehearsal import GIB, peak_memory

CPU = torch.device("cpu")
SIZES = {"student": (151_936, [151643]), "teacher": (152_064, [151645, 151643])}
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def make_pair(tokenizer: Path, folder: Path) -> int:
    """Save both models; the student's number of parameters."""
    parameters = 0
    for seed, (name, (rows, end_ids)) in enumerate(SIZES.items()):
        config = Qwen3Config(
            vocab_size=rows,
            hidden_size=512,
            intermediate_size=1024,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
        )
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        assert model.generation_config is not None
        model.generation_config.eos_token_id = end_ids
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / name)
        if name == "student":
            parameters = sum(p.numel() for p in model.parameters())
    return parameters


def recipe(data: Path, pair: Path) -> dict[str, Any]:
    return {
        "name": "qwen",
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "student": {"path": str(pair / "student"), "template": "{problem}\nAnswer:"},
        "teacher": {
            "path": str(pair / "teacher"),
            "prompt": "chat",
            "system": SYSTEM,
            "thinking": False,
        },
        "task": {
            "kind": "math",
            "train": str(data / "gsm8k_train" / "problems.jsonl"),
            "test": str(data / "gsm8k_test" / "problems.jsonl"),
        },
        "behaviour": {"kind": "trust_region_blend", "budget": 0.02, "warmup_steps": 2},
        "objective": {"kind": "reverse_kl"},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 2,
            "max_prompt_tokens": 256,
            "max_new_tokens": 48,
            "slots": 8,
            "truncated": "keep",
        },
        "optimizer": {"lr": 1e-5},
        "training": {
            "steps": 3,
            "tokens_per_micro_batch": 1024,
            "head_chunk_bytes": 2**27,
            "keep_last": 1,
        },
    }


def main(data: Path, folder: Path) -> None:
    parameters = make_pair(data / "tokenizers" / "qwen3", folder / "pair")
    made = peak_memory(CPU)
    result = train(config_from_dict(recipe(data, folder / "pair")), runs=folder / "runs")
    # Weights and AdamW's two moments in fp32: what any trainer of this student must hold.
    floor = 12 * parameters
    peak = peak_memory(CPU)
    found = {
        "steps": result.steps,
        "parameters": parameters,
        "weights_and_optimiser_gib": floor / GIB,
        "making_the_pair_gib": made / GIB,
        "peak_gib": peak / GIB,
        "metrics": result.metrics,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
