"""Whether long responses cost what they are long, or what the longest of them is.

    python benchmarks/long_responses.py [--threads 1] [--slots 64]

64 prompts, four responses each, of 10 to 2,000 tokens (evenly spread, shuffled; the end is never
drawn, so that lengths are fixed), by a random Qwen3 shape of 1 million parameters and 512 ids.
Beside it as many tokens in 256 responses of one length. `time per token` is the first over the
second, interleaved: 1 would be a time in proportion to the tokens generated. A batch that waits for
its longest row would generate `waiting` times as many. Times are processor seconds, which do not
count what else the machine does; on several threads they count the waiting for each other too.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from engine_pairs import Endless
from tandem.behaviours import Behaviour, FixedBudgetBlend, Student
from tandem.models.vocabulary import Alignment
from tandem.rollout import Engine
from tandem.types import Clock, Request, Sampling, SignalSpec

SHORTEST, LONGEST, PROMPTS, SAMPLES, IDS = 10, 2_000, 64, 4, 512


def speaker(seed: int, hidden: int, layers: int) -> Endless:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=IDS,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=4_096,
        tie_word_embeddings=False,
    )
    alignment = Alignment(size=IDS, end_id=0, student_end_ids=(0,), teacher_end_ids=(0,))
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    return Endless(model, own_end_ids=(0,), alignment=alignment)


def work(lengths: list[int]) -> list[Request]:
    prompts = [tuple(1 + (7 * i + j) % (IDS - 1) for j in range(16)) for i in range(PROMPTS)]
    return [
        Request(i, prompts[i // SAMPLES], prompts[i // SAMPLES], max_new_tokens=length)
        for i, length in enumerate(lengths)
    ]


def seconds(engine: Engine, requests: list[Request], behaviour: Behaviour) -> float:
    start = time.process_time()
    engine.generate(
        requests,
        behaviour=behaviour,
        clock=Clock(0, 1),
        sampling=Sampling(max_new_tokens=LONGEST),
        seed=0,
        record=SignalSpec(),
    )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Long responses of very different lengths.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count = PROMPTS * SAMPLES
    ragged = [SHORTEST + (LONGEST - SHORTEST) * i // (count - 1) for i in range(count)]
    random.Random(0).shuffle(ragged)
    equal = [sum(ragged) // count] * count
    batches = [ragged[i : i + arguments.slots] for i in range(0, count, arguments.slots)]
    waiting = sum(len(batch) * max(batch) for batch in batches) / sum(ragged)
    student, teacher = speaker(0, 128, 4), speaker(1, 128, 6)
    print("| law | tokens/s, 10 to 2,000 | tokens/s, one length | time per token | waiting |")
    print("|---|---|---|---|---|")
    for name, behaviour in (
        ("student", Student()),
        ("blend ε = 0.01, g = 4", FixedBudgetBlend(budget=0.01)),
    ):
        engine = Engine(student, {"teacher": teacher}, slots=arguments.slots, block=4)
        seconds(engine, [replace(r, max_new_tokens=4) for r in work(ragged)], behaviour)
        taken: dict[str, list[float]] = {"ragged": [], "equal": []}
        for _ in range(arguments.repeats):
            taken["ragged"].append(seconds(engine, work(ragged), behaviour))
            taken["equal"].append(seconds(engine, work(equal), behaviour))
        pairs = zip(taken["ragged"], taken["equal"], strict=True)
        ratios = [(a / sum(ragged)) / (b / sum(equal)) for a, b in pairs]
        speeds = [
            sum(lengths) / statistics.median(taken[kind])
            for kind, lengths in (("ragged", ragged), ("equal", equal))
        ]
        print(
            f"| {name} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}] | {waiting:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
