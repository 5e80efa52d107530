"""ARC-Challenge: the questions of school examinations that simple programs fail."""

from .commonsense import ChoiceTask, school_from_hub
from .hub_source import HubSource


TASK = ChoiceTask(
    name="arc_challenge", max_new_tokens=12, hub=HubSource("allenai/ai2_arc", "ARC-Challenge"), from_hub=school_from_hub
)
