"""The command line of lm-evaluation-harness, for pairs:

    python -m transformers_copilot.lm_eval run --model hf --model_args pretrained=outputs/mawps --tasks arc_easy

It is `lm_eval` itself, which would not know a pair's model type, since it imports no packages of its users. A
checkpoint with its code beside it needs no more than `lm_eval run … --trust_remote_code`. An encoder-decoder pair also
needs `backend=seq2seq` among the model arguments; `copilot_weight=0` there gives the Pilot alone.
"""

from __future__ import annotations

from .pair.installed_package import install_advice


def main() -> None:
    """Run the harness's command line in a process that knows pairs.

    Raises:
        ImportError: the harness is not installed.
    """
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise ImportError(
            "lm-evaluation-harness is not installed (or something that it needs): " + install_advice("lm_eval") + "."
        ) from error
    cli_evaluate()


if __name__ == "__main__":
    main()
