"""Tokenizers give open_clip's ids, cut to the longest text."""

import pickle

import open_clip
import pytest
import torch

from tests.towers.tiny import CAPTIONS, tiny_bert
from vlp.towers.tokenizers import ClipTokenizer, TransformersTokenizer, tokenizer_for
from vlp.types import RecipeError

NASTY = [
    *CAPTIONS,
    "<|endoftext|>",
    "<end_of_text> after",
    "\u2019s \u201cquoted\u201d \ufb01 \u2122",
    "dog!!",
    "&#39;",
    "\n",
]


def assert_same_ids(ours, theirs, pad):
    tokens, lengths = ours(NASTY)
    full = theirs(NASTY)
    width = tokens.shape[1]
    assert torch.equal(tokens, full[:, :width])
    assert (full[:, width:] == pad).all()
    assert width == lengths.max()
    for row, length in zip(full, lengths, strict=True):
        assert row[length - 1] != pad
        assert (row[length:] == pad).all()


@pytest.mark.parametrize("context_length", [77, 9])
def test_clip_ids_are_those_of_open_clip(context_length):
    theirs = open_clip.get_tokenizer("ViT-B-32", context_length=context_length)
    assert_same_ids(ClipTokenizer(context_length=context_length), theirs, 0)


def test_transformers_ids_are_those_of_open_clip(tmp_path):
    folder = tiny_bert(tmp_path)
    theirs = open_clip.tokenizer.HFTokenizer(folder, context_length=12)
    assert_same_ids(TransformersTokenizer(name=folder, context_length=12), theirs, 0)


def test_no_texts_give_no_tokens():
    tokens, lengths = ClipTokenizer(context_length=77)([])
    assert tokens.shape == (0, 0)
    assert lengths.shape == (0,)


def test_a_tokenizer_travels_to_worker_processes():
    tokenizer = ClipTokenizer(context_length=77)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copy(NASTY)[0], tokenizer(NASTY)[0])


def test_cleaning_is_as_configured():
    plain = tokenizer_for({"context_length": 77, "tokenizer_kwargs": {"clean": "canonicalize"}})
    assert torch.equal(plain(["A_cat!"])[0], ClipTokenizer(context_length=77)(["a cat"])[0])


def test_random_reduction_is_refused():
    with pytest.raises(RecipeError, match="at random"):
        tokenizer_for({"tokenizer_kwargs": {"reduction_mask": "syntax"}})


def test_a_missing_tokenizer_says_where_to_put_one(tmp_path):
    with pytest.raises(RecipeError, match=r"text\.tokenizer"):
        tokenizer_for({"hf_tokenizer_name": str(tmp_path)})
