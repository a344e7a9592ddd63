"""One vocabulary for all models of a run: shared ids, and one shared end of sequence.

Base students and chat teachers end with different ids, and each may have several. Before any
sampling and any divergence every model's end probability is moved onto one slot (arXiv
2605.31159, "EOS canonicalisation"; the rule for sets of ids is ours).
Shapes: R rows of a head, V shared vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tandem.models.loading import LoadedModel, locate

NAMED = 5


@dataclass(frozen=True, slots=True)
class Alignment:
    """The vocabulary that the models of a run speak: ids 0 … size−1, ended by `end_id`.

    student_end_ids: the student's own set. teacher_end_ids: those of all other models, teachers and
    reference, together. Ids beyond `size` are legal in both. notes: differences that do no harm,
    for the doctor.
    """

    size: int
    end_id: int
    student_end_ids: tuple[int, ...]
    teacher_end_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def aliases(self) -> tuple[int, ...]:
        """End ids of any model, other than the shared one: they never occur in a response."""
        union = {*self.student_end_ids, *self.teacher_end_ids}
        return tuple(sorted(union - {self.end_id}))


def align(student: LoadedModel, *others: LoadedModel) -> Alignment:
    """The shared vocabulary of a student and the models it is compared with (or of one alone).

    It is one for all of them, and not one for each pair: the student has one policy, so its law at
    a prefix must not depend on which teacher judges that response; a token that any of them cannot
    say, or ends with, is out of every law.

    Its size is the smallest of all heads' rows and all tokenizers' highest ids + 1. Raises
    ValueError, naming some of the differing ids, where the tokenizers disagree on any id of it.
    """
    spoken = _spelling(student.tokenizer)
    size = min(min(m.rows, max(_spelling(m.tokenizer)) + 1) for m in (student, *others))
    notes: list[str] = []
    for other in others:
        _refuse_different(spoken, size, student, other)
        notes += _notes(student, spoken, other, size)
    end_id = student.end_ids[0]
    if end_id >= size:
        raise ValueError(
            f"the student's first end id {end_id} is outside the shared vocabulary of {size} ids: "
            "name another one first in end_ids"
        )
    return Alignment(
        size=size,
        end_id=end_id,
        student_end_ids=student.end_ids,
        teacher_end_ids=tuple(dict.fromkeys(i for other in others for i in other.end_ids)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _notes(
    student: LoadedModel, spoken: dict[int, str], other: LoadedModel, size: int
) -> list[str]:
    """The differences between the student and one other model that do no harm."""
    name = repr(other.settings.path)
    notes = [
        f"{count} tokens of {whose} from id {size} on are outside the shared vocabulary"
        for whose, vocabulary in (("the student", spoken), (name, _spelling(other.tokenizer)))
        if (count := sum(i >= size for i in vocabulary))
    ]
    if student.rows != other.rows:
        notes.append(
            f"the heads have {student.rows} (the student) and {other.rows} ({name}) rows: both are "
            f"cut to the shared {size}"
        )
    return notes


def canonicalise(logits: Tensor, *, own_end_ids: tuple[int, ...], alignment: Alignment) -> Tensor:
    """Logits [..., R] of one model as logits [..., V] over the shared vocabulary.

    The shared slot holds the logsumexp of this model's own end ids; the aliases are −inf in both
    models; everything else is unchanged, so a softmax moves the end's whole probability onto the
    slot and keeps the ratios of all other ids. Differentiable; the input is not modified.
    """
    shared = logits[..., : alignment.size]
    slot, aliases = alignment.end_id, [i for i in alignment.aliases if i < alignment.size]
    renamed = set(own_end_ids) != {slot}
    if not renamed and not aliases:
        return shared
    own = logits.index_select(-1, _index(own_end_ids, logits.device))
    end = own.logsumexp(-1, keepdim=True) if len(own_end_ids) > 1 else own
    masked = end.new_full((), -torch.inf).expand(*end.shape[:-1], len(aliases))
    ids = _index((slot, *aliases), logits.device)
    # One indexed copy for slot and aliases together: the vocabulary is read and written once.
    return shared.index_copy(-1, ids, torch.cat([end, masked], -1))


@lru_cache(maxsize=64)
def _index(ids: tuple[int, ...], device: torch.device) -> Tensor:
    # Kept, because a copy to a GPU at every decoded token would wait for it; and made outside
    # inference mode, because training may be the next to use it.
    with torch.inference_mode(False):
        return torch.tensor(ids, device=device)


def silenced_ids(student: LoadedModel, alignment: Alignment) -> list[int]:
    """Ids of the student that are no part of its law in training, and are not its own end."""
    own = align(student)
    ends = set(alignment.teacher_end_ids) - set(own.student_end_ids)
    return sorted({i for i in ends if i < own.size} | set(range(alignment.size, own.size)))


def same_weights(a: LoadedModel, b: LoadedModel) -> bool:
    """Whether two models are one and the same: the same source, or equal parameters (compared in
    the narrower of their dtypes). A teacher equal to its student teaches nothing."""
    here, there = locate(a.settings.path), locate(b.settings.path)
    if here == there or (Path(here).is_dir() and Path(here).resolve() == Path(there).resolve()):
        return True
    ours, theirs = a.model.state_dict(), b.model.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return False
    for name, left in ours.items():
        right = theirs[name]
        narrow = min(left.dtype, right.dtype, key=lambda dtype: dtype.itemsize)
        if not torch.equal(left.to(narrow).cpu(), right.to(narrow).cpu()):
            return False
    return True


def _spelling(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def _refuse_different(
    spoken: dict[int, str], size: int, student: LoadedModel, other: LoadedModel
) -> None:
    theirs = _spelling(other.tokenizer)
    differing = [i for i in range(size) if spoken.get(i) != theirs.get(i)]
    if not differing:
        return
    named = ", ".join(f"{i} ({spoken.get(i)!r} / {theirs.get(i)!r})" for i in differing[:NAMED])
    raise ValueError(
        f"the tokenizers of student {student.settings.path!r} and model {other.settings.path!r} "
        f"differ on {len(differing)} of {size} shared ids, such as {named}: use models with one "
        "tokenizer"
    )
