"""The rollout engine: student and teacher decode in lock-step."""

from tandem.rollout.engine import Engine
from tandem.rollout.protocol import SpeakerLike

__all__ = ["Engine", "SpeakerLike"]
