"""MAWPS: word problems of one or two steps with an equation for each."""

from .arithmetic import ArithmeticTask, equation_from_hub
from .hub_source import HubSource


TASK = ArithmeticTask(
    name="mawps",
    max_new_tokens=40,
    hub=HubSource("MU-NLPC/Calc-mawps", "original-splits"),
    from_hub=equation_from_hub,
    short_equations=True,
)
