"""How the report's pictures look: light and dark, colours that the colour-blind can tell apart, nothing invisible."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.utils import is_matplotlib_available

from ..pair.installed_package import install_advice


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """The colours of the pictures, for a light or for a dark page.

    Args:
        name (`str`): the appearance: `"light"` or `"dark"`.
        background, ink, faint (`str`): paper, text and lines, and what should step back.
        series (tuple of `str`): colours of lines and bars (Okabe and Ito's, which the colour-blind can tell apart).
        heat (`str`): matplotlib's colour map for sizes; what is small is near the background.
    """

    name: str
    background: str
    ink: str
    faint: str
    series: tuple[str, ...]
    heat: str


LIGHT = Theme("light", "#ffffff", "#1b1f24", "#d5d9de", ("#0072b2", "#d55e00", "#009e73", "#9a4f86", "#6b6b6b"), "OrRd")
DARK = Theme("dark", "#15191e", "#e8eaed", "#3c434b", ("#56b4e9", "#e69f00", "#2fc79c", "#d78fbe", "#a9b0b7"), "magma")
THEMES = (LIGHT, DARK)
# Marks beside the colours, so that a series is known without its colour.
MARKERS = ("o", "s", "^", "D", "v")
# The smallest text, in points. A phone shows a picture 350 pixels wide, so that WIDTH inches of it leave 11 pixels.
SMALL, WIDTH = 9.5, 4.2


def check_matplotlib() -> None:
    """Say what is missing before any work is done.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if not is_matplotlib_available():
        raise ImportError(f"pictures need matplotlib: {install_advice('report')}.")


@contextmanager
def drawn(theme: Theme, width: float = WIDTH, height: float = 3.2) -> Iterator[Figure]:
    """A figure in a theme's colours.

    Args:
        width (`float`, *optional*, defaults to 4.2): inches; text has 10 points, so that it is read on a phone too.
        height (`float`, *optional*, defaults to 3.2): height of the whole figure, in inches.

    Yields:
        `matplotlib.figure.Figure` without axes. It belongs to no window and is not kept by pyplot.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    colours: Any = {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.faint,
        "legend.facecolor": theme.background,
        "legend.edgecolor": theme.faint,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # a token may be a dollar sign
    }
    with matplotlib.rc_context(colours), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the report says the tokens in text too.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield Figure(figsize=(width, height), layout="constrained")


def legend_above(figure: Figure, columns: int = 3) -> None:
    """Name the series above the axes, where the names hide no point.

    Args:
        figure (`Figure`): one with labelled series.
        columns (`int`, *optional*, defaults to 3): names beside each other.
    """
    figure.legend(fontsize=SMALL, loc="outside upper center", ncols=columns, frameon=False, columnspacing=1.2)


def png(figure: Figure, dots: int = 200) -> bytes:
    """A figure as a PNG file.

    Args:
        dots (`int`, *optional*, defaults to 200): dots an inch: more make a sharper picture and a larger file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that holds the file itself.

    Args:
        content (`bytes`): what is in the file.
        kind (`str`, *optional*, defaults to `"image/png"`): the file's media type, as browsers know it.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


__all__ = [
    "DARK",
    "LIGHT",
    "MARKERS",
    "SMALL",
    "THEMES",
    "Theme",
    "WIDTH",
    "check_matplotlib",
    "data_uri",
    "drawn",
    "legend_above",
    "png",
]
