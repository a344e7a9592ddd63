"""A model as the rest of the program sees it: a body, a head, canonical logits.

Shapes: B rows, L new tokens, S cache slots, N tokens, H hidden size, R head rows, V shared
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from tandem.models.chunked_head import chunked_sum
from tandem.models.heads import head_form, output_layer, project
from tandem.models.vocabulary import Alignment, canonicalise


class Speaker:
    """One model speaking the shared vocabulary.

    own_end_ids: the end ids of this model itself (one of the alignment's two sets).
    Raises ValueError for heads that are not understood (see heads.py).
    """

    def __init__(
        self, model: PreTrainedModel, *, own_end_ids: tuple[int, ...], alignment: Alignment
    ) -> None:
        self.model = model
        self.own_end_ids = own_end_ids
        self.alignment = alignment
        self._form = head_form(model.config)
        output_layer(model)

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def vocabulary_size(self) -> int:
        return self.alignment.size

    @property
    def end_id(self) -> int:
        return self.alignment.end_id

    @property
    def head(self) -> nn.Linear:
        return output_layer(self.model)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last hidden states [B, L, H] of the body, its final norm included.

        input_ids, position_ids: [B, L]. mask: bool [B, 1, L, S], True where a token attends to
        a cache slot; None is causal. cache: read and extended; without one nothing is cached.
        """
        if mask is not None and self.config._attn_implementation == "eager":
            # The eager path adds its mask to the scores instead of selecting by it.
            lowest = torch.finfo(self.dtype).min
            mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill_(~mask, lowest)
        output = self.model.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Canonical fp32 logits [..., V] of hidden states [..., H]."""
        return self.canonical(project(self.head, hidden))

    def canonical(self, raw: Tensor) -> Tensor:
        """Canonical logits [..., V] of the head's raw outputs [..., R]: in fp32 (fp64 stays),
        scaled and capped as the family does, end ids on the shared one, over the shared ids."""
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return self.shared(self._form(wide))

    def shared(self, logits: Tensor) -> Tensor:
        """Canonical logits [..., V] of the logits [..., R] that the model's own forward returns:
        end ids on the shared one, over the shared ids."""
        return canonicalise(logits, own_end_ids=self.own_end_ids, alignment=self.alignment)

    def chunked(
        self,
        hidden_NH: Tensor,
        score: Callable[[Tensor, slice], Tensor],
        *,
        chunk_bytes: int,
    ) -> Tensor:
        """Σ over chunks of `score(logits_CV, rows)`, a scalar, never holding [N, V].

        hidden_NH: [N, H] of the tokens to score. score: from the canonical logits of the tokens
        `rows` to a scalar; it is differentiated with respect to those logits only. chunk_bytes:
        the size of one chunk's fp32 logits; at least one token is taken.
        """
        head = self.head
        return chunked_sum(
            hidden_NH,
            head.weight,
            head.bias,
            transform=self.canonical,
            score=score,
            chunk_bytes=chunk_bytes,
        )
