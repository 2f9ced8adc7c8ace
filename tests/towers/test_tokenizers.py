"""Tokenizers give open_clip's ids, cut to the longest text."""

import copy
import html
import itertools
import pickle
import random
import signal
import string
from functools import cache

import ftfy
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.towers.tiny import CAPTIONS, tiny_bert
from vlp.data import Captions, SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.towers import tokenizers
from vlp.towers.byte_pairs import merge
from vlp.towers.tokenizers import ClipTokenizer, is_plain, tokenizer_for

NASTY = [
    *CAPTIONS,
    "<|endoftext|>",
    "<end_of_text> after",
    "\u2019s \u201cquoted\u201d \ufb01 \u2122",
    "dog!!",
    "&#39;",
    "\n",
    "&amp;amp;amp;lt; b&w black & white",
    "caf\u00c3\u00a9 na\u00efve \U0001f468\u200d\U0001f469\u200d\U0001f467 \u4f60\u597d \u0130stanbul \u00bd",
    "tab\there\x0b\x0c\x85\u2028\u00a0\x1c\x00\x1b[31mred",
    "it's they'LL <START_OF_TEXT>  a_b--c...!? 3.14 x" + "y" * 60,
]
# Pieces that meet each other: markup, entities, broken encodings, separators, contractions, marks of the vocabulary.
PIECES = [
    "&amp;",
    "&#x27;",
    "&",
    ";",
    "lt",
    "'s",
    "'LL",
    "<end_of_text>",
    "<start_of_text>",
    "caf\u00c3\u00a9",
    "\u2019",
]
PIECES += ["\u2019", "\u00a0", "\x1f", "\t", " ", "\u200b", "\ufb01", "\u0130", "A", "_", ".", "12", "\U0001f600"]
TEXTS = st.text() | st.text(string.printable) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
SYMBOLS = ("a", "b", "ab", "ba", "a</w>", "b</w>", "ab</w>")
CLEANING = ["lower", "whitespace", "canonicalize"]


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


@pytest.mark.parametrize("clean", CLEANING)
@pytest.mark.parametrize("context_length", [77, 9])
def test_clip_ids_are_those_of_open_clip(context_length, clean):
    theirs = open_clip.SimpleTokenizer(context_length=context_length, clean=clean)
    ours = ClipTokenizer(context_length=context_length, clean=clean)
    assert_same_ids(ours, theirs, 0)
    assert_same_ids(ours, theirs, 0)  # now from the words it knows


@cache
def our_tokenizer(clean):
    return ClipTokenizer(context_length=12, clean=clean)


@cache
def their_tokenizer(clean):
    return open_clip.SimpleTokenizer(context_length=12, clean=clean)


@settings(max_examples=400)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(CLEANING))
def test_any_text_has_the_ids_of_open_clip(texts, clean):
    ours, theirs = our_tokenizer(clean), their_tokenizer(clean)
    tokens, lengths = ours(texts)
    assert torch.equal(tokens, theirs(texts)[:, : tokens.shape[1]])
    assert tokens.shape[1] == lengths.max()
    assert [ours.clean(text) for text in texts] == [theirs.clean_fn(text) for text in texts]


def test_shipped_captions_have_the_ids_of_open_clip():
    samples, captions = SampleSet({"embedded": load_card("embedded")}), Captions()
    texts = [captions.first(samples[number]) for number in range(0, len(samples), 5)]
    assert len(texts) > 500
    tokens, _ = ClipTokenizer(context_length=77)(texts)
    assert torch.equal(tokens, open_clip.SimpleTokenizer()(texts)[:, : tokens.shape[1]])


def repaired(text):
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def test_plain_texts_need_no_repair():
    letters = [chr(code) for code in range(128)]
    assert {letter for letter in letters if is_plain(letter)} == set(string.printable[:-5]) - {"&"}
    for first, second in itertools.product(filter(is_plain, letters), repeat=2):
        assert repaired(first + second) == first + second


@settings(max_examples=300)
@given(st.text(string.printable, max_size=40) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_what_passes_for_plain_needs_no_repair(text):
    assert not is_plain(text) or repaired(text) == text


def test_known_words_stay_bounded(monkeypatch):
    monkeypatch.setattr(tokenizers, "MOST_KNOWN", 8)
    ours = ClipTokenizer(context_length=77)
    texts = [f"word{chr(97 + k % 26)}{k} {'x' * k}" for k in range(60)]
    tokens, _ = ours(texts)
    assert torch.equal(tokens, open_clip.SimpleTokenizer()(texts)[:, : tokens.shape[1]])
    assert len(ours._known) <= 8


@settings(max_examples=300)
@given(st.text("abn", min_size=1, max_size=40) | st.text(string.ascii_lowercase, min_size=1, max_size=40))
def test_merging_equals_the_search_of_open_clip(word):
    theirs = their_tokenizer("lower")
    assert merge(word, theirs.bpe_ranks) == theirs.bpe(word).split(" ")


@settings(max_examples=300)
@given(st.text("ab", min_size=1, max_size=12), st.permutations([(x, y) for x in SYMBOLS for y in SYMBOLS]))
def test_merging_equals_the_search_of_open_clip_for_any_ranks(word, order):
    """Also for ranks that no training gives, where one round makes neighbours of a lower rank."""
    searching = copy.copy(their_tokenizer("lower"))
    searching.bpe_ranks, searching.cache = {pair: rank for rank, pair in enumerate(order)}, {}
    assert merge(word, searching.bpe_ranks) == searching.bpe(word).split(" ")


def test_a_word_as_long_as_a_caption_may_be_ends_soon():
    signal.alarm(10)  # open_clip takes longer
    tokens, _ = ClipTokenizer(context_length=77)(["".join(random.Random(0).choices("abcdefghijklmnop", k=99_000))])
    signal.alarm(0)
    assert tokens.shape == (1, 77)


def test_transformers_ids_are_those_of_open_clip(tmp_path):
    folder = tiny_bert(tmp_path)
    theirs = open_clip.tokenizer.HFTokenizer(folder, context_length=12)
    assert_same_ids(tokenizer_for({"hf_tokenizer_name": folder, "context_length": 12}), theirs, 0)


def test_no_texts_give_no_tokens():
    tokens, lengths = ClipTokenizer(context_length=77)([])
    assert tokens.shape == (0, 0)
    assert lengths.shape == (0,)


def test_a_tokenizer_travels_to_worker_processes():
    tokenizer = ClipTokenizer(context_length=77)
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 1000  # the vocabulary stays here
    copy = pickle.loads(sent)
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
