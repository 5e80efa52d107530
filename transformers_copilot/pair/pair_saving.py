"""Saving and joining a pair's parts: the Copilot alone, adapters of either part, a quantized Pilot."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from .adapted import has_adapter
from .package_part import package_part
from .quantization import check_saveable, is_quantized


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedTokenizerBase

    from .modeling_pair_base import PilotCopilotPreTrainedModel

_ONE_WRITER = threading.Lock()

# A mixin of the pair; type checkers are told so.
_PairBase: Any = PreTrainedModel if TYPE_CHECKING else object


class PairSavingMixin(_PairBase):
    """The part of a pair that saves, joins and adapts its parts.

    Attributes:
        card_facts ([`CardFacts`], *optional*): what the next push's card says beside what the configuration says.
    """

    card_facts: Any = None

    def save_copilot(
        self,
        save_directory: str | os.PathLike,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        pilot: str | None = None,
        pilot_revision: str | None = None,
    ) -> None:
        """Save the Copilot alone: weights, configuration, λ and where it was fitted, and which Pilot it belongs to.

        Args:
            save_directory (`str`): the folder; made where it does not exist.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the Pilot's, whose hash is recorded. Defaults to the one
                that lies beside the Pilot, if it was loaded from somewhere.
            pilot (`str`, *optional*): the Hub id of the Pilot to record, where it is not the one that was loaded: give
                it if the Pilot has learnt too, and was pushed to a repository of its own.
            pilot_revision (`str`, *optional*): the commit of `pilot`.

        Raises:
            ValueError: an adapter would be lost; see `save_adapters`.
        """
        given = {"tokenizer": tokenizer, "pilot": pilot, "pilot_revision": pilot_revision}
        package_part("pair_parts").save_copilot_alone(self, save_directory, **given)

    def push_copilot_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        pilot: str | None = None,
        pilot_revision: str | None = None,
        commit_message: str = "Upload Copilot",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload the Copilot alone, with adapters where the pair has any, and a card, in one commit.

        Args:
            repo_id (`str`): `"user/copilot"`; made where it does not exist.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): as of `save_copilot`.
            pilot (`str`, *optional*): as of `save_copilot`.
            pilot_revision (`str`, *optional*): as of `save_copilot`.
            commit_message (`str`, *optional*, defaults to `"Upload Copilot"`): the commit's title.
            private (`bool`, *optional*): whether a new repository is private.
            token (`str` or `bool`, *optional*): the Hub's token; by default the one that is logged in.
            revision (`str`, *optional*): a branch, made where it does not exist. Defaults to the main one.
            create_pr (`bool`, *optional*, defaults to `False`): propose the commit instead of making it.

        Returns:
            `CommitInfo`

        Raises:
            HfHubHTTPError: the Hub refused; a note says what to do. The repository is as it was before.
        """
        given = {"tokenizer": tokenizer, "pilot": pilot, "pilot_revision": pilot_revision}
        commit = {"commit_message": commit_message, "token": token, "revision": revision, "create_pr": create_pr}
        return package_part("pair_parts").push_copilot_alone(self, repo_id, private, given, commit)

    @classmethod
    def from_copilot(
        cls, copilot: str, *, revision: str | None = None, trust_remote_code: bool = False, **options: Any
    ) -> PilotCopilotPreTrainedModel:
        """Load a Copilot's own checkpoint together with the Pilot that it names, at the commit that it names.

        Which Pilot is fetched is logged before. To use another one: `from_pilot(pilot, copilot=...)`.

        Args:
            copilot (`str`): id or folder, as `save_copilot` or `save_adapters` wrote it.
            revision (`str`, *optional*): branch, tag or commit of the Copilot's repository.
            trust_remote_code (`bool`, *optional*, defaults to `False`): run code of the Pilot's repository. Never
                taken from the checkpoint.
            **options: options of the pair, which win over the checkpoint's, and keywords of the Pilot's
                `from_pretrained`, such as `dtype` or `quantization_config`.

        Returns:
            The pair.

        Raises:
            ValueError: there is no Copilot, or it names no Pilot.
            OSError: the Pilot is not to be had.
        """
        join = package_part("pair_parts").join_recorded_pilot
        return join(cls, copilot, revision, trust_remote_code, options)

    def add_adapters(self, pilot: Any = None, copilot: Any = None, *, train_new_parts: bool = True) -> None:
        """Put adapters into the Pilot, the Copilot or both; the weights below them stop learning.

        Module names are those inside each part: `q_proj` in `pilot` never reaches the Copilot.

        Args:
            pilot (`peft.PeftConfig`, *optional*): the Pilot's, e.g. `paper_lora("pilot")` (r = 32, α = 64). `None`: the
                Pilot stays as it is.
            copilot (`peft.PeftConfig`, *optional*): the Copilot's, e.g. `paper_lora("copilot")`. Without
                `target_modules`, every matrix of its layers. `None`: the Copilot stays as it is, and learns whole.
            train_new_parts (`bool`, *optional*, defaults to `True`): beside its adapter, the Copilot's parts that no
                decoder has (vocabulary, memory) learn whole. They start from random weights or zero.

        Raises:
            ValueError: a part has an adapter already, or no module fits.
            TypeError: a configuration is not PEFT's.
        """
        package_part("pair_parts").put_adapters(self, pilot, copilot, train_new_parts)

    def save_adapters(
        self,
        save_directory: str | os.PathLike,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        pilot: str | None = None,
        pilot_revision: str | None = None,
    ) -> None:
        """Save the adapters of both parts and the Copilot, without the Pilot's own weights.

        The folder is one that `from_copilot` and `from_pilot(..., copilot=folder)` load, adapters and all; its folders
        `pilot_adapter` and `copilot_adapter` are PEFT's own format.

        Args:
            save_directory (`str`): the folder; made where it does not exist.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): as of `save_copilot`.
            pilot (`str`, *optional*): as of `save_copilot`.
            pilot_revision (`str`, *optional*): as of `save_copilot`.

        Raises:
            ValueError: there is no adapter, or the Pilot's own weights learn too and would be lost.
        """
        given = {"tokenizer": tokenizer, "pilot": pilot, "pilot_revision": pilot_revision}
        package_part("pair_parts").save_with_adapters(self, save_directory, **given)

    def merge_copilot(self) -> PreTrainedModel:
        """The pair as a plain model of the Pilot's class, at the Pilot's cost: a branch in the place of the Pilot's
        last layers (λ = 1), a linear Copilot multiplied into the head (any λ).

        Returns:
            `PreTrainedModel`: equal to the pair to rounding. The pair stays as it is.

        Raises:
            ValueError: no plain model is equal to the pair; the message says why.
        """
        return package_part("merging").merge(self)

    def merge_adapters(self) -> None:
        """Add the adapters to the weights below them and take them out: a plain pair, all of whose weights learn.

        Raises:
            ValueError: a method can't be merged, merged weights are not finite, or one of several modules that share
                a weight has an adapter. Nothing is changed then.
        """
        package_part("adapters").merge_all(self)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the pair whole, adapters in folders of their own; arguments as of any model's `save_pretrained`.

        Args:
            save_directory (`str`): the folder.
            is_main_process (`bool`, *optional*, defaults to `True`): as of any model's.
            state_dict (`dict`, *optional*): weights to save instead of the pair's own.
            **kwargs: handed on.

        Raises:
            ValueError: the Pilot was quantized in a way that cannot be saved.
        """
        check_saveable(self)
        if is_quantized(self.pilot):
            # transformers 5.23 cannot turn the names of a quantized checkpoint that it loaded back.
            kwargs.setdefault("save_original_format", False)
        if not (has_adapter(self.pilot) or has_adapter(self.copilot)):
            self.config.adapters = None
            super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
            return
        files = package_part("adapter_files")
        self.config.adapters = package_part("adapters").adapter_names(self)
        if is_main_process:
            files.save_adapters_beside(self, save_directory)
        # A hook, because quantizers take the weights themselves whatever is given here. One thread after the other:
        # torch can't go through a module's hooks while another thread puts one there.
        with _ONE_WRITER:
            hook = self.register_state_dict_post_hook(partial(_leave_adapters_out, threading.get_ident()))
            try:
                state_dict = None if state_dict is None else files.without_adapters(self, state_dict)
                super().save_pretrained(
                    save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs
                )
            finally:
                hook.remove()

    def _load_adapters(self, source: str, hub: dict[str, Any]) -> None:
        """The adapters that a pair's configuration names."""
        for part, name in (self.config.adapters or {}).items():
            package_part("adapter_files").load_adapter(self, part, name, source, **hub)


def _leave_adapters_out(thread: int, pair: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    if prefix or thread != threading.get_ident():  # the pair is a part of something else that is being saved
        return
    plain = package_part("adapter_files").without_adapters(pair, state)
    state.clear()
    state.update(plain)


__all__ = ["PairSavingMixin"]
