"""The chunked head under FSDP2: two gloo processes against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn
from transformers import Qwen3Config, Qwen3ForCausalLM

from tandem.models.speaker import Speaker
from tandem.models.vocabulary import Alignment

ROWS, LENGTH, VOCABULARY = 5, 6, 37
ALIGNMENT = Alignment(33, 1, (1,), (4, 1))


class Step(nn.Module):
    """Body, chunked head and loss in one forward, where sharded parameters are whole."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            tie_word_embeddings=tied,
        )
        self.model = Qwen3ForCausalLM(config).double().train()
        self.model.activation_checkpointing_enable({"use_reentrant": False})

    def forward(self, ids: Tensor, target: Tensor, *, rows: int) -> Tensor:
        """Score the tokens of the first `rows` rows; 0 is a batch with no token to train on."""
        speaker = Speaker(self.model, own_end_ids=(1,), alignment=ALIGNMENT)
        hidden = speaker.hidden(ids, torch.arange(LENGTH).expand_as(ids))[:rows].flatten(0, 1)

        def score(logits: Tensor, part: slice) -> Tensor:
            picked = logits.log_softmax(-1).gather(-1, target.flatten()[part, None])
            return -picked.square().sum()

        return speaker.chunked(hidden, score, chunk_bytes=4 * VOCABULARY * 4)


def inputs() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 33, (2, ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return ids[0], ids[1]


def gradients_of_rank(rank: int, tied: bool, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    step = Step(tied)
    for layer in step.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(step, mesh=mesh)
    # Uneven ranks, the second without a single token in its second micro-batch (a transformers
    # body takes no batch of zero rows, so that batch has a row of which nothing is scored).
    shares = [[(0, 2, 2), (2, 4, 2)], [(4, 5, 1), (0, 1, 0)]][rank]
    for start, stop, rows in shares:
        ids, target = (x[start:stop] for x in inputs())
        (2 * step(ids, target, rows=rows)).backward()  # FSDP2 averages over the two ranks
    shards = {name: p.grad for name, p in step.named_parameters()}
    found = {name: g.full_tensor() for name, g in shards.items() if isinstance(g, DTensor)}
    if rank == 0:
        torch.save(found, Path(folder, "gradients.pt"))
    del step, shards
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_two_sharded_processes_give_the_gradients_of_one(tied: bool, tmp_path: Path) -> None:
    spawn(gradients_of_rank, args=(tied, str(tmp_path)), nprocs=2)
    step = Step(tied)
    step(*inputs(), rows=ROWS).backward()
    found = torch.load(tmp_path / "gradients.pt")
    expected = {name: p.grad for name, p in step.named_parameters()}
    assert ("model.lm_head.weight" in expected) == (not tied)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
