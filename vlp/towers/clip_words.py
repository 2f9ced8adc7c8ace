"""CLIP's byte pairs as a tokenizer of transformers, for texts that are clean already."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vlp.towers.tokenizers import ClipTokenizer

# open_clip's names, so that a user's text has the same meaning in both libraries
START, END = "<start_of_text>", "<end_of_text>"
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_words(tokenizer: ClipTokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer of transformers that splits clean texts as this one does."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(tokenizer),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        # causal towers that pool at the first end token do not see what follows it; CLIP's zeros would be the
        # special token "!", which changes how "dog!!" is split
        pad_token=END,
    )


def _byte_pairs(tokenizer: ClipTokenizer) -> Tokenizer:
    words = tokenizer.words
    merges = sorted(words.bpe_ranks, key=words.bpe_ranks.__getitem__)
    fast = Tokenizer(
        models.BPE(vocab=words.encoder, merges=merges, end_of_word_suffix="</w>", unk_token=END, fuse_unk=False)
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(text, special=True, normalized=True) for text in (START, END)])
    ends = [(START, words.sot_token_id), (END, words.eot_token_id)]
    fast.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return fast
