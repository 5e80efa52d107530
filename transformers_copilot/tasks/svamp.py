"""SVAMP: word problems of one step, reworded to mislead. It has a test set only: train on others, such as MAWPS."""

from .arithmetic import ArithmeticTask, equation_from_hub
from .hub_source import HubSource


TASK = ArithmeticTask(
    name="svamp",
    max_new_tokens=40,
    hub=HubSource("MU-NLPC/Calc-svamp", splits={"test": "test"}),
    from_hub=equation_from_hub,
    short_equations=True,
)
