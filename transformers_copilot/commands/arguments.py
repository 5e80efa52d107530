"""The commands' options: HfArgumentParser, with a YAML file that may say the same as the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def make_parser(command: str, dataclasses: tuple[type, ...], description: str, epilog: str = "") -> HfArgumentParser:
    """A command's parser.

    Args:
        command (`str`): its name.
        dataclasses (tuple of `type`): whose fields are its options.
        description (`str`): what it does.
        epilog (`str`, *optional*): examples.

    Returns:
        `HfArgumentParser`
    """
    from argparse import RawDescriptionHelpFormatter

    parser = HfArgumentParser(
        dataclasses,
        prog=f"transformers-copilot {command}",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="Options from a YAML file; the command line goes before.")
    return parser


def parse(parser: HfArgumentParser, arguments: list[str]) -> tuple[Any, ...]:
    """Read the options of a command line and of the YAML file that it names.

    Args:
        parser (`HfArgumentParser`): the command's parser.
        arguments (list of `str`): the words after the command.

    Returns:
        The dataclasses, and a namespace of the other options.

    Raises:
        SystemExit: the command line is wrong; argparse has said so (exit code 2).
    """
    words = list(arguments)
    for place, word in enumerate(words):
        if word == "--config" and place + 1 < len(words):
            words = from_yaml(parser, words[place + 1]) + words
            break
        if word.startswith("--config="):
            words = from_yaml(parser, word.partition("=")[2]) + words
            break
    return parser.parse_args_into_dataclasses(words, look_for_args_file=False)


def from_yaml(parser: HfArgumentParser, file: str) -> list[str]:
    """A YAML file as words of a command line.

    Args:
        parser (`HfArgumentParser`): says so if the file is wrong.
        file (`str`): the file: names of options and their values.

    Returns:
        list of `str`
    """
    if not Path(file).is_file():
        parser.error(f"there is no file {file} (--config)")
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"{file} is no YAML: {error}")
    if not isinstance(values, dict):
        parser.error(f"{file} must hold names of options and their values, as in `learning_rate: 1.0e-4`")
    words = []
    for name, value in values.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list):
            words += [str(item) for item in value]
        else:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words


__all__ = ["from_yaml", "make_parser", "parse"]
