"""A tokenizer of single characters, for models that speak a small alphabet."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "<end>"
PAD_ID, END_ID = 0, 1


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One id per character: 0 pads, 1 ends a text, then the alphabet in its order.

    A text with any other character is refused by the tokenizer itself ("Missing [UNK] token"):
    there is no unknown token, which would let a model answer a question it never read.

    Raises ValueError where the alphabet is empty or names a character twice.
    """
    twice = sorted({c for c in alphabet if alphabet.count(c) > 1})
    if not alphabet or twice:
        raise ValueError(
            f"alphabet {alphabet!r} must name one or more characters once each"
            + (f": remove the repeated {twice[0]!r}" if twice else "")
        )
    vocabulary = {token: i for i, token in enumerate([PAD, END, *alphabet])}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    # `[\s\S]` and not `.`, which does not match a line break.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
