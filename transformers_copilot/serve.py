"""The command line of `transformers serve`, for pairs and other models:

    python -m transformers_copilot.serve runs/mawps --port 8000 --reasoning off --enable-cors

It is transformers' server with its own options, which would not find a pair's class by itself. `transformers-copilot
serve` is the same for one pair, with the options that one needs.
"""

from __future__ import annotations

from inspect import signature
from typing import Any


def main() -> None:
    """Run the server's command line in a process that knows pairs.

    Raises:
        ImportError: the server's packages are missing.
    """
    from .commands.serve import check_serving

    check_serving()
    import typer
    from transformers.cli.serve import Serve

    from .commands.pair_server import PairServe

    def serve(**options: Any) -> None:
        """Run the server."""
        PairServe(**options)

    serve.__dict__["__signature__"] = signature(Serve)  # the command line is made of it
    app = typer.Typer(add_completion=False)
    app.command(help="Serve models, pairs among them, with an OpenAI-compatible API.")(serve)
    app(prog_name="python -m transformers_copilot.serve")


if __name__ == "__main__":
    main()
