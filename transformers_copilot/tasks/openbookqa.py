"""OpenBookQA: elementary science with four choices, asked without the book's facts."""

from .commonsense import ChoiceTask, school_from_hub
from .hub_source import HubSource


TASK = ChoiceTask(
    name="openbookqa", max_new_tokens=12, hub=HubSource("allenai/openbookqa", "main"), from_hub=school_from_hub
)
