"""`transformers-copilot serve`: the server of `transformers serve`, with pairs known."""

from __future__ import annotations

from transformers import AutoConfig
from transformers.utils.import_utils import is_serve_available

from ..pair.installed_package import install_advice
from .arguments import CommandParser
from .models import DTYPES, check_place


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="transformers-copilot serve",
        description="Serve a pair with an OpenAI-compatible API: chat completions, completions and responses. "
        "A request names its λ in `generation_config`, as `copilot_weight`. `python -m transformers_copilot.serve` is "
        "the same server with all options of `transformers serve`.",
        epilog="example:\n  transformers-copilot serve runs/mawps --port 8000",
    )
    parser.add_argument("pair", help="The pair's folder, or its id on the Hub.")
    parser.add_argument("--host", default="localhost", help="Address that is listened on; 'localhost' by default.")
    parser.add_argument("--port", type=int, default=8000, help="Port that is listened on; 8000 by default.")
    parser.add_argument("--device", default="auto", help="Where the pair goes, e.g. 'cpu'; 'auto' by default.")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="Type of the Pilot's weights.")
    parser.add_argument("--continuous_batching", action="store_true", help="Refused for pairs; requests are told why.")
    return parser


def check_serving() -> None:
    """Refuse to go on where the server's packages are missing.

    Raises:
        ImportError: they are.
    """
    if not is_serve_available():
        raise ImportError(
            f"the server's packages are missing (fastapi, uvicorn, openai, pydantic): {install_advice('serving')}."
        )


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `serve`.

    Returns:
        `int`: the exit code.

    Raises:
        ImportError: the server's packages are missing.
        ValueError: it is no pair that continues a text.
    """
    options = _parser().parse_args(arguments)
    check_serving()
    check_place(options.pair, "pair")
    kind = AutoConfig.from_pretrained(options.pair).model_type
    if kind != "pilot_copilot":
        raise ValueError(
            f"{options.pair} is a {kind} model and no pair that continues a text; a plain model is served by "
            "`transformers serve`."
        )
    from .pair_server import PairServe

    given = vars(options)
    PairServe(given.pop("pair"), **given)
    return 0


__all__ = ["check_serving", "run"]
