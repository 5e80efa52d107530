"""ARC-Easy: questions of school examinations, most with four choices."""

from .commonsense import ChoiceTask, school_from_hub
from .hub_source import HubSource


TASK = ChoiceTask(
    name="arc_easy", max_new_tokens=12, hub=HubSource("allenai/ai2_arc", "ARC-Easy"), from_hub=school_from_hub
)
