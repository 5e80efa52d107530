"""A tokenizer whose tokens would do harm in a page that doesn't escape them, or that cannot be seen."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table>",
    '" onload="alert(2)',
    "\u202egnp.exe",
    "\x00\x1b[31m",
    "مرحبا",
    "{{ totals }}",
    "</script><script>alert(3)</script>",
    "$x^2$",
    "\u2028",
    "7",
    "&amp;",
]


def hostile_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """So many tokens: special ones, the hostile ones, and pictures that would run a script."""
    words = ["<pad>", "<s>", "</s>", *HOSTILE]
    vocabulary = {
        word: index
        for index, word in enumerate([*words, *(f"<img src=x onerror=alert({n})>" for n in range(len(words), size))])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
