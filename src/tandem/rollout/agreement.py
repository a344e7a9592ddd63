"""What the student itself says of finished responses: one forward over each, without gradient.

Another library's engine answers for its log-probs by it, and what that engine cannot tell is
filled in from it.
Shapes: B responses, L padded tokens, T tokens of one response, V shared vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.divergences import entropy
from tandem.rollout.block import tempered
from tandem.rollout.protocol import SpeakerLike

# Padded tokens of one forward, and bytes of one chunk of fp32 logits.
TOKENS = 8192
CHUNK_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Said:
    """Of one response's tokens, [T] each on the CPU: log p, log p at the temperature, entropy."""

    student_logp: Tensor
    law_logp: Tensor
    entropy: Tensor


# A prompt and its response.
Text = tuple[tuple[int, ...], Tensor]


@torch.no_grad()
def rescored(student: SpeakerLike, texts: Sequence[Text], *, temperature: float) -> list[Said]:
    """What the student says of each response, in their order."""
    found: dict[int, Said] = {}
    for group in _groups(texts):
        rows = [(*texts[i][0], *texts[i][1].tolist()[:-1]) for i in group]
        longest = max(map(len, rows))
        # Right padding, which no earlier token of a causal model sees.
        ids_BL = torch.tensor([row + (0,) * (longest - len(row)) for row in rows])
        ids_BL = ids_BL.to(student.device)
        positions = torch.arange(longest, device=ids_BL.device).expand_as(ids_BL)
        hidden_BLH = student.hidden(ids_BL, positions)
        for row, i in enumerate(group):
            prompt, ids_T = texts[i]
            states_TH = hidden_BLH[row, len(prompt) - 1 : len(prompt) - 1 + len(ids_T)]
            found[i] = _said(student, states_TH, ids_T, temperature=temperature)
    return [found[i] for i in range(len(texts))]


def _said(student: SpeakerLike, states_TH: Tensor, ids_T: Tensor, *, temperature: float) -> Said:
    chunk = max(1, CHUNK_BYTES // (4 * student.vocabulary_size))
    parts: list[Tensor] = []
    drawn = ids_T.to(states_TH.device)[:, None]
    for states_CH, ids_C1 in zip(states_TH.split(chunk), drawn.split(chunk), strict=True):
        logp_CV = torch.log_softmax(student.logits(states_CH), -1)
        law_CV = tempered(logp_CV, temperature)
        columns = [logp_CV.gather(1, ids_C1)[:, 0], law_CV.gather(1, ids_C1)[:, 0]]
        parts.append(torch.stack([*columns, entropy(logp_CV)]).cpu())
    return Said(*torch.cat(parts, 1).unbind())


def _groups(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Indices of texts of like length, at most TOKENS padded tokens together, or one alone."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]) - len(texts[i][1]))
    group: list[int] = []
    for i in order:
        width = sum(map(len, texts[group[0]] if group else texts[i]))
        if group and (len(group) + 1) * width > TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
