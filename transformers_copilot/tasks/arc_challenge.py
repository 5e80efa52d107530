"""ARC-Challenge: the questions of school examinations that simple programs fail."""

from .base import HubSource
from .commonsense import ChoiceTask, school_from_hub


TASK = ChoiceTask(
    name="arc_challenge", max_new_tokens=12, hub=HubSource("allenai/ai2_arc", "ARC-Challenge"), from_hub=school_from_hub
)
