"""The commands' options: HfArgumentParser, with a YAML file that may say the same as the command line."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..pair.saved_files import READING_ERRORS
from .option_names import wrong_option


class CommandParser(HfArgumentParser):
    """A parser that answers a mistyped option with the nearest one.

    Args:
        dataclasses (tuple of `type`, *optional*, defaults to none): whose fields are options.
        short_help (callable, *optional*): what `--help` shows; argparse's own is then `--help-all`.
        **options: what `ArgumentParser` takes.
    """

    def __init__(
        self, dataclasses: tuple[type, ...] = (), short_help: Callable[[], str] | None = None, **options: Any
    ) -> None:
        self.names: list[str] = []
        self.file: str | None = None
        self.names_in_file: list[str] = []
        super().__init__(
            dataclasses, formatter_class=RawDescriptionHelpFormatter, add_help=short_help is None, **options
        )
        if short_help is not None:
            self.usage = "%(prog)s [options]"  # argparse's own would name all of them
            self.add_argument("-h", "--help", action=_ShortHelp, text=short_help, help="The most used options.")
            self.add_argument("--help-all", action="help", help="All options.")

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an option, and remember what it is called."""
        added = super().add_argument(*names, **options)
        self.names += added.option_strings
        return added

    def check_names(self, words: Iterable[str]) -> None:
        """Refuse options that there aren't, with exit code 2.

        Args:
            words (iterable of `str`): the command line.
        """
        wrong = wrong_option(words, self.names, self.prog)
        if wrong is not None:
            self.error(wrong)

    def error(self, message: str) -> Any:
        """Say what is wrong, and end with exit code 2.

        Args:
            message (`str`): what argparse says; the file that options are from is named too.
        """
        super().error(self.with_file(message))

    def with_file(self, message: str) -> str:
        """An error's text, with the file that options are from, and with their names where it has none of them.

        Args:
            message (`str`): what went wrong.
        """
        if self.file is None:
            return message
        named = any(name in message for name in self.names_in_file)
        return f"{message} (read from {self.file}, too{'' if named else ': ' + ', '.join(self.names_in_file)})"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, once every option is known by name.

        Args:
            args (list of `str`, *optional*): the command line; the process's own by default.
            namespace (`Namespace`, *optional*): where the values go; a new one by default.
        """
        self.check_names(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)


class _ShortHelp(Action):
    """Prints a text of ours and ends, as argparse's own `help` does."""

    def __init__(self, option_strings: list[str], dest: str, text: Callable[[], str], help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=SUPPRESS, help=help)
        self.text = text

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        sys.stdout.write(self.text() + "\n")
        parser.exit()


def make_parser(
    command: str,
    dataclasses: tuple[type, ...],
    description: str,
    epilog: str = "",
    short_help: Callable[[], str] | None = None,
) -> CommandParser:
    """A command's parser.

    Args:
        command (`str`): its name.
        dataclasses (tuple of `type`): whose fields are its options.
        description (`str`): what it does.
        epilog (`str`, *optional*): examples, and what else is to be known; it stands above the options.
        short_help (callable, *optional*): what `--help` shows, where all options are too many.

    Returns:
        [`CommandParser`]
    """
    about = f"{description}\n\n{epilog}".rstrip()
    parser = CommandParser(dataclasses, short_help, prog=f"transformers-copilot {command}", description=about)
    parser.add_argument("--config", metavar="FILE.yaml", help="Options from a YAML file; the command line goes before.")
    return parser


def parse(parser: CommandParser, arguments: list[str]) -> tuple[Any, ...]:
    """Read the options of a command line and of the YAML file that it names.

    Args:
        parser ([`CommandParser`]): the command's parser.
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
    try:
        return parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except READING_ERRORS as error:
        if parser.file is None:
            raise
        raise ValueError(parser.with_file(str(error))) from error


def from_yaml(parser: CommandParser, file: str) -> list[str]:
    """A YAML file as words of a command line.

    Args:
        parser ([`CommandParser`]): says so if the file is wrong.
        file (`str`): the file: names of options and their values.

    Returns:
        list of `str`
    """
    if not Path(file).is_file():
        parser.error(f"there is no file {file} (--config)")
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, *READING_ERRORS) as error:
        parser.error(f"{file} is no YAML: {error}")
    if not isinstance(values, dict):
        parser.error(f"{file} must hold names of options and their values, as in `learning_rate: 1.0e-4`")
    parser.file, parser.names_in_file = file, [str(name) for name in values]
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


__all__ = ["CommandParser", "from_yaml", "make_parser", "parse"]
