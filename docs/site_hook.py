"""For mkdocs: docstrings name this package's classes as `[`CopilotTrainer`]`, which is not Markdown."""

import re
from typing import Any


def on_page_content(html: str, **kwargs: Any) -> str:
    """Take the brackets away.

    Args:
        html: A page's content.
        **kwargs: What mkdocs says of the page.

    Returns:
        The content.
    """
    return re.sub(r"\[(<code>\w+</code>)\]", r"\1", html)
