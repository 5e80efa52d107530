"""`transformers-copilot serve`: the server of `transformers serve`, with pairs known."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.import_utils import is_serve_available

from ..pair.installed_package import install_advice
from .models import DTYPES


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="transformers-copilot serve",
        formatter_class=RawDescriptionHelpFormatter,
        description="Serve a pair with an OpenAI-compatible API: chat completions, completions and responses. "
        "A request names its λ in `generation_config`, as `copilot_weight`.",
        epilog="example:\n  transformers-copilot serve runs/mawps --port 8000",
    )
    parser.add_argument("pair", help="The pair's folder, or its id on the Hub.")
    parser.add_argument("--host", default="localhost", help="Address that is listened on; 'localhost' by default.")
    parser.add_argument("--port", type=int, default=8000, help="Port that is listened on; 8000 by default.")
    parser.add_argument("--device", default="auto", help="Where the pair goes, e.g. 'cpu'; 'auto' by default.")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="Type of the Pilot's weights.")
    parser.add_argument("--continuous_batching", action="store_true", help="Refused for pairs; requests are told why.")
    return parser


def pair_server(pair: str, device: str = "auto", dtype: str = "auto", continuous_batching: bool = False) -> Any:
    """The web application of `transformers serve`, with one pair loaded.

    Args:
        pair (`str`): the pair's folder, or its id on the Hub.
        device (`str`, *optional*, defaults to `"auto"`): where it goes, e.g. `"cpu"`.
        dtype (`str`, *optional*, defaults to `"auto"`): type of the Pilot's weights.
        continuous_batching (`bool`, *optional*, defaults to `False`): ask for it; a pair answers with status 501.

    Returns:
        `fastapi.FastAPI`

    Raises:
        ImportError: the server's packages are missing.
        ValueError: it is no pair that continues a text.
    """
    if not is_serve_available():
        raise ImportError(
            f"the server's packages are missing (fastapi, uvicorn, openai, pydantic): {install_advice('serving')}."
        )
    from fastapi.responses import JSONResponse
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.systemone import SystemOneHandler
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerationState

    class PairManager(ModelManager):
        """Loads by the Auto class: transformers' own takes only classes that `transformers` itself holds."""

        def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
            name, revision = model_id_and_revision, None
            if not Path(name).exists() and "@" in name:
                name, _, revision = name.rpartition("@")
            config = AutoConfig.from_pretrained(name, revision=revision)
            if config.model_type != "pilot_copilot":
                raise ValueError(
                    f"{name} is a {config.model_type} model and no pair that continues a text; a plain model is "
                    "served by `transformers serve`."
                )
            model = AutoModelForCausalLM.from_pretrained(
                name, revision=revision, dtype=self.dtype, device_map=self.device
            )
            return model.eval()

    manager = PairManager(device=device, dtype=dtype, force_model=pair)
    state = GenerationState(continuous_batching=continuous_batching)
    parts: dict[str, Any] = {"model_manager": manager, "generation_state": state}
    app = build_server(
        manager,
        ChatCompletionHandler(**parts),
        completion_handler=CompletionHandler(**parts),
        response_handler=ResponseHandler(**parts),
        transcription_handler=TranscriptionHandler(manager, state),
        systemone_handler=SystemOneHandler(**parts),
        generation_state=state,
    )

    @app.exception_handler(NotImplementedError)
    async def refused(_request: Any, error: NotImplementedError) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": "not_implemented"}}, status_code=501)

    return app


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
    app = pair_server(options.pair, options.device, options.dtype, options.continuous_batching)
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)
    return 0


__all__ = ["pair_server", "run"]
