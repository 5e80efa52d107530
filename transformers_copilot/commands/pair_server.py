"""transformers' own server, with pairs known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig
from transformers.cli.serve import ReasoningMode, Serve
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState, set_torch_seed
from transformers.utils import logging


# Options of the server that are not the application's.
_OF_PROCESS = ("host", "port", "log_level", "default_seed", "non_blocking")


class PairManager(ModelManager):
    """Loads pairs by the Auto class: transformers' own loader takes only classes that `transformers` itself holds."""

    def _load_model(self, model_id_and_revision: str, *args: Any, **kwargs: Any) -> Any:
        name, revision = model_id_and_revision, None
        if not Path(name).exists() and "@" in name:
            name, _, revision = name.rpartition("@")
        common = {"revision": revision, "trust_remote_code": self.trust_remote_code}
        if kwargs.get("gguf_file") is not None:
            return super()._load_model(model_id_and_revision, *args, **kwargs)
        config = AutoConfig.from_pretrained(name, **common)
        if not config.model_type.startswith("pilot_copilot"):
            return super()._load_model(model_id_and_revision, *args, **kwargs)
        if config.is_encoder_decoder:
            raise ValueError(f"{name} is a pair with an encoder; this server has models that continue a text.")
        return AutoModelForCausalLM.from_pretrained(
            name,
            dtype=self.dtype,
            device_map=self.device,
            attn_implementation=self.attn_implementation,
            quantization_config=self.get_quantization_config(),
            **common,
        ).eval()


class PairServe(Serve):
    """The command `transformers serve` with all of its options, for pairs as for other models.

    transformers' own makes its loader in one piece with the rest, so the parts are put together here.

    Args:
        force_model (`str`, *optional*): what is loaded at once and served alone; else what a request names.
        **options: as of `transformers.cli.serve.Serve`.
    """

    def __init__(self, force_model: str | None = None, **options: Any) -> None:
        process = {name: options.pop(name) for name in _OF_PROCESS if name in options}
        logging.get_logger("transformers").setLevel(logging.log_levels[process.get("log_level", "warning").lower()])
        if process.get("default_seed") is not None:
            set_torch_seed(process["default_seed"])
        app = self._application(force_model, **options)
        place = {"host": process.get("host", "localhost"), "port": process.get("port", 8000)}
        self.server = uvicorn.Server(uvicorn.Config(app, **place, log_level="info"))
        if process.get("non_blocking"):
            self.start_server()
        else:
            self.server.run()

    def _application(
        self,
        force_model: str | None,
        *,
        device: str = "auto",
        dtype: str | None = "auto",
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        quantization: str | None = None,
        model_timeout: int = 300,
        continuous_batching: bool = False,
        compile: bool = False,
        reasoning: Any = ReasoningMode.AUTO,
        chat_template_kwargs: str | None = None,
        decision_config: str | None = None,
        enable_cors: bool = False,
        **of_batching: Any,
    ) -> FastAPI:
        """The web application, with a model loaded if one is named."""
        self._model_manager = manager = PairManager(
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            attn_implementation=attn_implementation,
            continuous_batching=continuous_batching,
            quantization=quantization,
            model_timeout=model_timeout,
            force_model=force_model,
        )
        given = {name.removeprefix("cb_"): value for name, value in of_batching.items() if value is not None}
        self._generation_state = state = GenerationState(
            continuous_batching, compile, ContinuousBatchingConfig(**given) if given else None
        )
        parts: dict[str, Any] = {"model_manager": manager, "generation_state": state}
        chat = {"chat_template_kwargs": _chat_options(chat_template_kwargs, reasoning)}
        app = build_server(
            manager,
            ChatCompletionHandler(**parts, **chat),
            completion_handler=CompletionHandler(**parts),
            response_handler=ResponseHandler(**parts, **chat),
            transcription_handler=TranscriptionHandler(manager, state),
            systemone_handler=SystemOneHandler(**parts, **chat, decision_config=decision_config),
            generation_state=state,
            enable_cors=enable_cors,
        )

        @app.exception_handler(NotImplementedError)
        async def refused(_request: Any, error: NotImplementedError) -> JSONResponse:
            """What a pair can't do, such as continuous batching, is said to the client."""
            return JSONResponse({"error": {"message": str(error), "type": "not_implemented"}}, status_code=501)

        return app


def _chat_options(given: str | None, reasoning: Any) -> dict[str, Any]:
    """What a chat template is told for every request."""
    options = json.loads(given) if given else {}
    if not isinstance(options, dict):
        raise ValueError(f"--chat-template-kwargs is {given}; give a JSON object.")
    if ReasoningMode(reasoning) is not ReasoningMode.AUTO:
        options["enable_thinking"] = ReasoningMode(reasoning) is ReasoningMode.ON
    return options


__all__ = ["PairManager", "PairServe"]
