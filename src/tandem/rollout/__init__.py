"""The rollout engines: student and teacher in lock-step, or the student alone with vLLM."""

from tandem.rollout.engine import Engine
from tandem.rollout.protocol import RolloutEngine, SpeakerLike

__all__ = ["Engine", "RolloutEngine", "SpeakerLike"]
