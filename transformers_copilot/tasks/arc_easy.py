"""ARC-Easy: questions of school examinations, most with four choices."""

from .base import HubSource
from .commonsense import ChoiceTask, school_from_hub


TASK = ChoiceTask(
    name="arc_easy", max_new_tokens=12, hub=HubSource("allenai/ai2_arc", "ARC-Easy"), from_hub=school_from_hub
)
