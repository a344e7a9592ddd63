"""What decoding cost, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Tally:
    """Counts over one or several calls of an engine.

    tokens: drawn and kept in responses. rounds: settlings. row_rounds: live rows, summed over
    rounds; slot_rounds: rows there was room for, likewise. student_tokens: tokens fed to the
    student while decoding (prompts apart). teacher_rows: row_rounds in which the teacher looked.
    tried, stayed: drafts that were judged, and those of them that stayed; all do where nobody
    judges.
    """

    tokens: int = 0
    rounds: int = 0
    row_rounds: int = 0
    slot_rounds: int = 0
    student_tokens: int = 0
    teacher_rows: int = 0
    tried: int = 0
    stayed: int = 0

    def add(self, other: Tally) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def metrics(self) -> dict[str, tuple[float, float]]:
        """(sum, count) by name, so that ranks can add them up; absent where nothing was counted.

        tokens_per_round: of a row. student_forwards, teacher_forwards: a row's, per token drawn.
        slots_in_use: the share of rows that were live. acceptance: of judged drafts.
        """
        pairs = {
            "tokens_per_round": (self.tokens, self.row_rounds),
            "student_forwards": (self.student_tokens, self.tokens),
            "teacher_forwards": (self.teacher_rows, self.tokens),
            "slots_in_use": (self.row_rounds, self.slot_rounds),
            "acceptance": (self.stayed, self.tried),
        }
        return {k: (float(a), float(b)) for k, (a, b) in pairs.items() if b}
