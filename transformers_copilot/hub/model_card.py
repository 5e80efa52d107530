"""The card of a pair, or of a Copilot alone: what is known, from a template; what is not known is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

from ..pair.installed_package import install_advice
from ..pair.options import chosen
from ..pair.provenance import hub_id
from ..pair.published_text import as_plain_text, publishable, without_secrets
from ..pair.version import __version__
from .card_facts import CardFacts, eval_results, result_row


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

MARK = "<!-- Written by transformers_copilot"
_TAGS = ("transformers_copilot", "pilot_copilot", "arxiv:2505.16270")
_REVISION = re.compile(r"[\w./-]+")  # a commit, branch or tag as it may stand in a line of code
# Where the template lies: in the installed package, or beside it in a clone.
_TEMPLATES = tuple(folder / "model_cards" / "README_TEMPLATE.md" for folder in Path(__file__).resolve().parents[1:3])


def make_card(
    pair: PilotCopilotPreTrainedModel,
    repo_id: str | None = None,
    *,
    alone: bool = False,
    has_tokenizer: bool = False,
    pilot: str | None = None,
    pilot_revision: str | None = None,
) -> ModelCard:
    """A card of what the pair's configuration and `pair.card_facts` say.

    Args:
        repo_id (`str`, *optional*): where it is pushed.
        alone (`bool`, *optional*, defaults to `False`): the repository holds the Copilot alone.
        has_tokenizer (`bool`, *optional*, defaults to `False`): the tokenizer is in it.
        pilot (`str`, *optional*): the Pilot's id, where it is another than the one that was loaded.
        pilot_revision (`str`, *optional*): the commit of `pilot`; not used without it.

    Raises:
        OSError: the template is not there.
    """
    facts = pair.card_facts or CardFacts()
    base = hub_id(pair.config.pilot_name_or_path if pilot is None else pilot)
    revision = pair.config.pilot_revision if pilot is None else pilot_revision
    title = publishable(facts.model_name) or (repo_id or "").rpartition("/")[2] or "A Pilot and its Copilot"
    seq2seq = bool(pair.config.is_encoder_decoder)
    config = pair.config
    card = ModelCard.from_template(
        _card_data(pair, facts, base, title, alone),
        template_path=str(_template()),
        title=as_plain_text(title),
        summary=_summary(alone),
        pilot=_pilot_text(pair, base),
        pilot_id=base,
        pilot_revision=revision if base and _REVISION.fullmatch(revision or "") else None,
        copilot=_copilot_text(pair),
        copilot_weight=f"{config.copilot_weight:g}",
        copilot_weight_fit=_fit_text(config.copilot_weight_fit),
        **{name: getattr(config, name) for name in ("fusion", "error_feedback", "objective")},
        **{name: getattr(config.copilot, name) for name in ("form", "rationale")},
        repo_id=repo_id,
        alone=alone,
        pair_class=type(pair).__name__,
        auto_class="AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM",
        tokenizer_id=repo_id if has_tokenizer else base,
        training=_settings(facts.training),
        results=[result_row(result) for result in facts.results],
        limits=publishable(facts.limits),
        install_advice=install_advice(),
        version=__version__,
    )
    card.content = without_secrets(card.content)
    return card


def _template() -> Path:
    for file in _TEMPLATES:
        if file.is_file():
            return file
    raise OSError(f"the card's template is missing ({_TEMPLATES[0].name}); install the package again.")


def _settings(training: dict[str, Any]) -> dict[str, str]:
    """What is said of a training, as the card's table takes it."""
    told = {name: publishable(str(value)) for name, value in training.items()}
    return {as_plain_text(name): as_plain_text(value) for name, value in told.items() if value is not None}


def _card_data(
    pair: PilotCopilotPreTrainedModel, facts: CardFacts, base: str | None, title: str, alone: bool
) -> ModelCardData:
    task = "text2text-generation" if pair.config.is_encoder_decoder else "text-generation"
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": None if base is None else "adapter" if alone else "finetune",
        "library_name": "transformers_copilot" if alone else "transformers",
        "pipeline_tag": task,
        "tags": list(dict.fromkeys([*_TAGS, *filter(None, map(publishable, facts.tags))])),
        "license": facts.license,
        "language": facts.language,
        "datasets": [name for name in facts.datasets if hub_id(name)] or None,
    }
    if facts.results:
        values["model_name"] = title
        values["eval_results"] = [entry for result in facts.results for entry in eval_results(result, task)]
    return ModelCardData(**{name: value for name, value in values.items() if value is not None})


def _summary(alone: bool) -> str:
    if alone:
        return (
            "A Copilot: a small transformer that has learnt from the mistakes of a language model (the Pilot) and "
            "corrects it while it writes. The Pilot is not in this repository."
        )
    return (
        "A language model (the Pilot) and a small second transformer (the Copilot) that has learnt from the Pilot's "
        "mistakes and corrects it while it writes."
    )


def _pilot_text(pair: PilotCopilotPreTrainedModel, base: str | None) -> str:
    kind = f"{type(pair.pilot).__name__}, {pair.pilot.num_parameters():,} weights"
    return kind if base is None else f"[{base}](https://huggingface.co/{base}) ({kind})"


def _copilot_text(pair: PilotCopilotPreTrainedModel) -> str:
    config, weights = pair.copilot.config, f"{pair.copilot.num_parameters():,} weights"
    shapes = {
        "decoder": f"{config.num_hidden_layers} layers of width {config.hidden_size}",
        "branch": f"the Pilot's last {config.num_hidden_layers} layers once more",
        "linear": "one linear map of what the Pilot's head reads",
    }
    return f'{shapes[chosen("form", config.form)]}, {weights}, `head="{config.head}"`'


def _fit_text(fit: dict[str, Any] | None) -> str | None:
    if not fit:
        return None
    # A pair that was loaded brings the fit of whoever wrote its checkpoint: any value may be anything.
    name, size = publishable(str(fit.get("set_name") or "")), fit.get("set_size")
    criterion, method = (as_plain_text(str(fit.get(key)).replace("_", " ")) for key in ("criterion", "method"))
    examples = f"{size:,} examples" if isinstance(size, int) else "examples"
    where = f"{as_plain_text(name)} ({examples})" if name else examples
    return f"fitted on {where} by {criterion} ({method})"


def is_ours(text: str) -> bool:
    """Whether a README was written by this package, so that it may be written anew.

    Args:
        text (`str`): the whole README. This package leaves a mark in those that it writes.
    """
    return MARK in text


def users_readme(repo_id: str, token: bool | str | None = None, revision: str | None = None) -> str | None:
    """The README of a repository, if someone wrote it himself.

    Args:
        repo_id (`str`): id of the repository on the Hub, `owner/name`.
        token (`str` or `bool`, *optional*): the Hub's token; by default the one that is logged in.
        revision (`str`, *optional*): the branch; where it is yet to be made, it begins as the main one.

    Returns:
        `str`, or `None` where there is none or this package wrote it.
    """
    try:
        file = hf_hub_download(repo_id, "README.md", revision=revision, token=token)
    except RevisionNotFoundError:
        return None if revision is None else users_readme(repo_id, token)
    except LocalEntryNotFoundError:  # an EntryNotFoundError too, but only says that the Hub could not be asked
        raise
    except EntryNotFoundError:
        return None
    text = Path(file).read_text(encoding="utf-8")
    return None if is_ours(text) else text


def write_card(
    pair: PilotCopilotPreTrainedModel,
    folder: str | Path,
    repo_id: str,
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    tags: list[str] | None = None,
    **about: Any,
) -> None:
    """Write the card into a folder that is about to be pushed; a README that a user wrote stays as it is.

    Args:
        repo_id (`str`): the repository that the folder will be pushed to.
        token (`str` or `bool`, *optional*): the Hub's token; by default the one that is logged in.
        revision (`str`, *optional*): the branch that will be pushed to. Defaults to the main one.
        tags (`list[str]`, *optional*): tags for the card, added to those of `pair.card_facts`.
        **about: as [`make_card`] takes them.
    """
    if users_readme(repo_id, token, revision) is not None:
        return
    has_tokenizer = (Path(folder) / "tokenizer_config.json").is_file()
    if tags:
        facts = pair.card_facts or CardFacts()
        pair.card_facts = replace(facts, tags=list(dict.fromkeys([*facts.tags, *tags])))
    card = make_card(pair, repo_id, has_tokenizer=has_tokenizer, **about)
    card.save(Path(folder) / "README.md")


__all__ = ["is_ours", "make_card", "users_readme", "write_card"]
