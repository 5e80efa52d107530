"""The table of formats that a Pilot may be in: see `quantized_pilots`."""

from typing import Any


HEADS = [
    "format",
    "weights, MB",
    "Trainer trains it",
    "λ = 0 is the Pilot",
    "loss of the Pilot alone",
    "with its Copilot",
    "reading + teaching, s",
    "peak memory, GB",
]


def quantized_table(lines: list[dict[str, Any]]) -> str:
    """How far each format came.

    Args:
        lines: Results of `quantized_pilots`, a format each.

    Returns:
        A table; a format that failed has what it failed at in the place of its figures.
    """
    rows = ["| " + " | ".join(HEADS) + " |", "| --- " * len(HEADS) + "|"]
    for line in lines:
        size = f"{line['weight_bytes'] / 1e6:.0f}" if "weight_bytes" in line else ""
        trains = _yes(line["trained_by_transformers"] == "yes") if "trained_by_transformers" in line else ""
        equal = _yes(line["equal_at_zero"]) if "equal_at_zero" in line else ""
        if "failed" in line:
            cells = [f"failed at {line['at']}: {_short(line['failed'])}", "", "", ""]
        else:
            losses = [f"{line['test'][part]:.3f}" for part in ("pilot", "pair")]
            seconds = f"{line['recording_seconds']:.0f} + {line['teaching_seconds']:.0f}"
            cells = [*losses, seconds, f"{line['peak_bytes'] / 1e9:.1f}"]
        rows.append("| " + " | ".join([line["format"], size, trains, equal, *cells]) + " |")
    return "\n".join(rows)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _short(message: str, most: int = 90) -> str:
    """The beginning of an error, as text of a table."""
    text = message.replace("|", "/").replace("`", "").replace("<", "‹").replace(">", "›")
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"
