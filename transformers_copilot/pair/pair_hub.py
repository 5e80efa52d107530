"""A pair as one repository: its code goes with it, and it is pushed whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from .installed_package import needs_package, package_only


# The mixin is put into a model's class; type checkers are told so.
_ModelBase: Any = PreTrainedModel if TYPE_CHECKING else object


class PairHubMixin(_ModelBase):
    """The part of [`PilotCopilotPreTrainedModel`] that writes and pushes a pair whole."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the pair whole; arguments as of any model's `save_pretrained`.

        Beside weights and configuration lies the code that loads them, so that the folder also loads where the package
        is not installed, with `trust_remote_code=True`. It is this package's own modules, without those that train.

        Args:
            save_directory (`str`): the folder.
            *args: handed on.
            **kwargs: handed on, e.g. `max_shard_size`.
        """
        before = vars(self.config).get("auto_map")
        if type(self).__module__ != "__main__":  # a class of a script has no file that could go along
            self.config.auto_map = self._auto_map()
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:  # saving leaves the pair as it is
            self.config.auto_map = before
            if before is None:
                del self.config.auto_map

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
            commit_message (`str`, *optional*, defaults to `"Upload pair"`): the commit's title.
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


__all__ = ["PairHubMixin"]
