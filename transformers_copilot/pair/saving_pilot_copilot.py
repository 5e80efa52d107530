"""Saving and sharing a pair: whole with its code, the Copilot alone, adapters of either part, a quantized Pilot."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from .installed_package import in_package, needs_package, package_only
from .loading import add_checksums, copilot_digest, weight_files
from .pilot import has_adapter
from .quantization import check_saveable, is_quantized


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedTokenizerBase

    from .modeling_pair_base import PilotCopilotPreTrainedModel

# Saving changes the configuration for a while, and puts a hook on the pair: one thread after the other.
_ONE_WRITER = threading.RLock()

# A mixin of the pair; type checkers are told so.
_PairBase: Any = PreTrainedModel if TYPE_CHECKING else object


class PairSavingMixin(_PairBase):
    """The part of a pair that saves, shares, joins and adapts its parts.

    Attributes:
        card_facts ([`CardFacts`], *optional*): what the next push's card says beside what the configuration says.
    """

    card_facts: Any = None

    @package_only
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
            ValueError: an adapter would be lost, see `save_adapters`; or `pilot` is no Hub id.
        """
        try:
            from transformers_copilot.hub.saving_parts import save_copilot_alone
        except ImportError as error:
            raise ImportError(needs_package()) from error
        save_copilot_alone(self, save_directory, tokenizer=tokenizer, pilot=pilot, pilot_revision=pilot_revision)

    @package_only
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
        try:
            from transformers_copilot.hub.saving_parts import push_copilot_alone
        except ImportError as error:
            raise ImportError(needs_package()) from error
        given = {"tokenizer": tokenizer, "pilot": pilot, "pilot_revision": pilot_revision}
        commit = {"commit_message": commit_message, "token": token, "revision": revision, "create_pr": create_pr}
        return push_copilot_alone(self, repo_id, private, given, commit)

    @classmethod
    @package_only
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
            ValueError: there is no Copilot, or it names no Pilot, or a folder of this machine.
            OSError: the Pilot is not to be had.
        """
        try:
            from transformers_copilot.hub.saving_parts import join_recorded_pilot
        except ImportError as error:
            raise ImportError(needs_package()) from error
        return join_recorded_pilot(cls, copilot, revision, trust_remote_code, options)

    @package_only
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
        try:
            from transformers_copilot.hub.saving_parts import put_adapters
        except ImportError as error:
            raise ImportError(needs_package()) from error
        put_adapters(self, pilot, copilot, train_new_parts)

    @package_only
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
        try:
            from transformers_copilot.hub.saving_parts import save_with_adapters
        except ImportError as error:
            raise ImportError(needs_package()) from error
        save_with_adapters(self, save_directory, tokenizer=tokenizer, pilot=pilot, pilot_revision=pilot_revision)

    @package_only
    def merge_copilot(self) -> PreTrainedModel:
        """The pair as a plain model of the Pilot's class, at the Pilot's cost: a branch in the place of the Pilot's
        last layers (λ = 1), a linear Copilot multiplied into the head (any λ).

        Returns:
            `PreTrainedModel`: equal to the pair to rounding. The pair stays as it is.

        Raises:
            ValueError: no plain model is equal to the pair; the message says why.
        """
        try:
            from transformers_copilot.building.merging import merge
        except ImportError as error:
            raise ImportError(needs_package()) from error
        return merge(self)

    @package_only
    def merge_adapters(self) -> None:
        """Add the adapters to the weights below them and take them out: a plain pair, all of whose weights learn.

        Raises:
            ValueError: a method can't be merged, merged weights are not finite, or one of several modules that share
                a weight has an adapter. Nothing is changed then.
        """
        try:
            from transformers_copilot.adapters.adapter_merging import merge_all
        except ImportError as error:
            raise ImportError(needs_package()) from error
        merge_all(self)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the pair whole, adapters in folders of their own; arguments as of any model's `save_pretrained`.

        Beside weights and configuration lies the code that loads them, so that the folder also loads where the package
        is not installed, with `trust_remote_code=True`. It is this package's own modules, without those that train.

        Args:
            save_directory (`str`): the folder; made where it does not exist.
            is_main_process (`bool`, *optional*, defaults to `True`): as of any model's.
            state_dict (`dict`, *optional*): weights to save instead of the pair's own.
            **kwargs: handed on. With `push_to_hub=True` the pair is then pushed as its own `push_to_hub` does it, to
                `repo_id` or to a repository of the folder's name.

        Raises:
            ValueError: the Pilot was quantized in a way that cannot be saved.
        """
        check_saveable(self)
        # transformers would upload the configuration as it is before the sums of the other files are in it.
        push = _taken_for_push(save_directory, kwargs)
        with _ONE_WRITER:
            before = vars(self.config).get("auto_map")
            if type(self).__module__ != "__main__":  # a class of a script has no file that could go along
                self.config.auto_map = self._auto_map()
            try:
                self._save_whole(save_directory, is_main_process, state_dict, **kwargs)
            finally:  # saving leaves the pair as it is
                self.config.auto_map = before
                if before is None:
                    del self.config.auto_map
        if push is not None and is_main_process:
            self.push_to_hub(**push)

    def _save_whole(
        self, folder: str | os.PathLike, is_main_process: bool, state_dict: dict[str, Tensor] | None, **kwargs: Any
    ) -> None:
        """`save_pretrained`, but for the code that goes along."""
        if is_quantized(self.pilot):
            # transformers 5.23 cannot turn the names of a quantized checkpoint that it loaded back.
            kwargs.setdefault("save_original_format", False)
        if not (has_adapter(self.pilot) or has_adapter(self.copilot)):
            self.config.adapters = None
            super().save_pretrained(folder, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
            self._add_checksums(folder, is_main_process, kwargs, {})
            return
        self._save_beside_adapters(folder, is_main_process, state_dict, **kwargs)

    @package_only
    def _save_beside_adapters(
        self, folder: str | os.PathLike, is_main_process: bool, state_dict: dict[str, Tensor] | None, **kwargs: Any
    ) -> None:
        """`save_pretrained` of a pair with adapters: they lie in folders of their own, and not among its weights."""
        try:
            from transformers_copilot.adapters.adapter_checks import adapter_names
            from transformers_copilot.adapters.adapter_files import (
                adapter_sums,
                save_adapters_beside,
                without_adapters,
            )
        except ImportError as error:
            raise ImportError(needs_package()) from error
        self.config.adapters = adapter_names(self)
        if is_main_process:
            save_adapters_beside(self, folder)

        def leave_adapters_out(pair: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
            """Of this pair in this thread; elsewhere it is a part of something else that is being saved."""
            if not prefix and threading.get_ident() == writer:
                plain = without_adapters(pair, state)
                state.clear()
                state.update(plain)

        # A hook, because quantizers take the weights themselves whatever is given here.
        writer = threading.get_ident()
        hook = self.register_state_dict_post_hook(leave_adapters_out)
        try:
            state_dict = None if state_dict is None else without_adapters(self, state_dict)
            super().save_pretrained(folder, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
        finally:
            hook.remove()
        sums = adapter_sums(folder, self.config.adapters) if is_main_process else {}
        self._add_checksums(folder, is_main_process, kwargs, sums)

    @staticmethod
    def _add_checksums(
        folder: str | os.PathLike, is_main_process: bool, keywords: dict[str, Any], sums: dict[str, Any]
    ) -> None:
        """Sums of what was written, but for the Pilot's weights, go into the configuration."""
        if is_main_process and weight_files(folder, keywords):
            add_checksums(folder, {"copilot": copilot_digest(folder, keywords), **sums})

    def _auto_map(self) -> dict[str, str]:
        """Which class of which file each Auto class finds in the repository; transformers itself would name one."""
        kinds = (type(self), type(self.config))
        model, config = (f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" for kind in kinds)
        return {"AutoConfig": config, "AutoModel": model, self._auto_pilot_class.__name__: model}

    @package_only
    def push_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: Any = None,
        commit_message: str = "Upload pair",
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> Any:
        """Upload the pair, its code and its card to the Hub, in one commit: all of it arrives, or nothing changes.

        Args:
            repo_id (`str`): `"user/name"`; made where it does not exist.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): goes into the same commit.
            commit_message (`str`, *optional*, defaults to `"Upload pair"`): the commit's first line.
            commit_description (`str`, *optional*): more about it.
            private (`bool`, *optional*): whether a new repository is private; an existing one stays what it is.
            token (`str` or `bool`, *optional*): the Hub's token; by default the one that is logged in.
            revision (`str`, *optional*): a branch, made where it does not exist. Defaults to the main one.
            create_pr (`bool`, *optional*, defaults to `False`): propose the commit instead of making it.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): weights are split into such files.
            tags (`list[str]`, *optional*): more tags for the card.

        Returns:
            `CommitInfo`: with the commit's id and address.

        Raises:
            HfHubHTTPError: the Hub refused; a note says what to do. The repository is as it was before.
        """
        try:
            from transformers_copilot.hub.push import push_pair
        except ImportError as error:
            raise ImportError(needs_package()) from error
        options = {
            "commit_message": commit_message,
            "commit_description": commit_description,
            "private": private,
            "token": token,
            "revision": revision,
            "create_pr": create_pr,
            "max_shard_size": max_shard_size,
            "tags": tags,
        }
        return push_pair(self, repo_id, tokenizer, options)

    def _load_adapters(self, source: str, hub: dict[str, Any], sums: dict[str, Any]) -> None:
        """The adapters that a pair's configuration names."""
        if self.config.adapters:
            self._read_adapters(self.config.adapters, source, hub, sums)

    @package_only
    def _read_adapters(self, named: dict[str, str], source: str, hub: dict[str, Any], sums: dict[str, Any]) -> None:
        """Adapters by part."""
        try:
            from transformers_copilot.adapters.adapter_files import Sums, load_adapter
        except ImportError as error:
            raise ImportError(needs_package()) from error
        for part, name in named.items():
            load_adapter(self, part, name, source, Sums(sums, "config.json"), **hub)


def _taken_for_push(folder: str | os.PathLike, keywords: dict[str, Any]) -> dict[str, Any] | None:
    """What `save_pretrained(push_to_hub=True)` says of the push, out of its keywords; `None` where it is not asked for.

    A checkpoint's own code can't push and leaves them to transformers: what it uploads has no sums.
    """
    if not in_package():
        return None
    if not keywords.pop("push_to_hub", False):
        return None
    options: dict[str, Any] = {"repo_id": Path(folder).name}
    for name in ("repo_id", "commit_message", "private", "revision", "create_pr", "tags"):
        options[name] = keywords.pop(name, options.get(name))
    for name in ("token", "max_shard_size"):  # of saving, too
        options[name] = keywords.get(name)
    return {name: value for name, value in options.items() if value is not None}


__all__ = ["PairSavingMixin"]
