"""The legal forms of ReverseKL, and the sizes that its tests share."""

from __future__ import annotations

from tandem.objectives import ReverseKL
from tandem.types import Clock

V, K = 8, 3
CLOCK = Clock(step=3, total_steps=20)

# Forms whose gradient vanishes where teacher and student agree.
AT_REST = [
    ReverseKL(support="full"),
    ReverseKL(top_k=K, tail="none"),
    ReverseKL(top_k=K, tail="renormalise_weights"),
    ReverseKL(top_k=K, tail="renormalise"),
    ReverseKL(top_k=K, tail="bucket"),
    ReverseKL(support="sampled", realisation="policy_gradient"),
    ReverseKL(support="sampled", realisation="k2"),
]

EVERY_FORM = [
    *AT_REST,
    ReverseKL(top_k=K, tail="none", realisation="autograd"),
    ReverseKL(support="teacher_topk", top_k=K),
    ReverseKL(support="sampled", importance="exact"),
    ReverseKL(support="sampled", importance="truncated", importance_limit=1.5),
]
