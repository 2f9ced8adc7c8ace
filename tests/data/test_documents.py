"""Interleaved documents through the stream: which images and texts, in which tokens, and what bad ones do."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from tests.documents import StartTokenizer, document, obelics, write_documents
from tests.shards import png_header, write_shards
from vlp.data import Captions, Crop, SampleSet, Stream, Views
from vlp.data.faults import BadSampleError
from vlp.data.samples import Sample
from vlp.data.shards.cards import Card
from vlp.data.shards.shard import open_shards
from vlp.data.texts.document_layouts import Passage, is_document, passages
from vlp.data.texts.document_tokens import document_rows
from vlp.data.texts.documents import Documents, Excerpt
from vlp.ground.randomness import Draws
from vlp.ground.types import RecipeError

TWO = obelics("lead", 1, "one", 3, "two")
FIVE = obelics("a b c d", 1, "one", 3, "two", 5, 6, "three", 8, "four")
FIVE_IMAGES = {1: 1, 3: 3, 5: 5, 6: 6, 8: 8}


def read(record, there=lambda number: True, least=0.0):
    return passages(record, there, str.strip, least)


def test_each_text_belongs_to_the_latest_image_before_it():
    assert read(FIVE) == [
        Passage(None, "a b c d"), Passage(1, "one"), Passage(3, "two"), Passage(5, ""), Passage(6, "three"),
        Passage(8, "four"),
    ]  # fmt: skip
    assert read(FIVE, there=lambda number: number not in (3, 5)) == [
        Passage(None, "a b c d"), Passage(1, "one two"), Passage(6, "three"), Passage(8, "four")
    ]  # fmt: skip


def test_images_of_mmc4_stand_before_the_sentence_they_match():
    record = {
        "text_list": ["one", "two", "three"],
        "image_info": [
            {"image_name": "b.jpg", "matched_text_index": 2, "matched_sim": 0.3},
            {"image_name": "a.jpg", "matched_text_index": 0, "matched_sim": 0.2},
        ],
    }
    assert read(record) == [Passage(1, "one two"), Passage(0, "three")]
    assert read(record, least=0.24) == [Passage(None, "one two"), Passage(0, "three")]
    assert is_document(record) and is_document(FIVE) and not is_document({"texts": ["a"]}) and not is_document(["a"])


@pytest.mark.parametrize(
    "record",
    [{"caption": "a"}, {"texts": ["a"], "images": []}, {"texts": "a", "images": "b"}, {"text_list": ["a"]},
     {"text_list": ["a"], "image_info": [{"matched_text_index": "x"}]},
     {"text_list": ["a"], "image_info": [{"matched_text_index": 1}]},
     {"text_list": ["a"], "image_info": [{"matched_text_index": -1}]},
     {"texts": ["a", "b"], "images": [None, "c"]}],
)  # fmt: skip
def test_what_is_no_document_is_a_fault_of_its_sample(record):
    with pytest.raises(BadSampleError):
        read(record)


@pytest.fixture
def excerpts_of(tmp_path):
    def draw(record, present, count=100, **settings):
        card = write_documents(tmp_path / str(len(list(tmp_path.iterdir()))), [document("k", record, present)])
        sample, documents = Sample.of_card(card, open_shards(card)[0], 0), Documents(**settings)
        return [documents(sample, Captions(), Draws(0, number)) for number in range(count)]

    return draw


def test_of_many_images_some_that_follow_each_other_are_drawn_with_the_words_before_them(excerpts_of):
    found = excerpts_of(FIVE, FIVE_IMAGES, images=2, lead=2)
    assert found == excerpts_of(FIVE, FIVE_IMAGES, images=2, lead=2)
    runs = {excerpt.images: excerpt.texts[1:] for excerpt in found}
    assert runs == {
        ("1.jpg", "3.jpg"): ("one", "two"),
        ("3.jpg", "5.jpg"): ("two", ""),
        ("5.jpg", "6.jpg"): ("", "three"),
        ("6.jpg", "8.jpg"): ("three", "four"),
    }
    assert {excerpt.texts[0] for excerpt in found if excerpt.images[0] == "1.jpg"} == {"", "d", "c d"}
    assert {excerpt.texts[0] for excerpt in found if excerpt.images[0] == "3.jpg"} == {"", "one"}
    whole = excerpts_of(FIVE, FIVE_IMAGES, images=9, lead=0, count=3)
    assert {len(excerpt.images) for excerpt in whole} == {5} and {excerpt.texts[0] for excerpt in whole} == {""}


def test_a_document_without_an_image_or_a_text_behind_one_is_refused(excerpts_of):
    with pytest.raises(BadSampleError, match="none of the images") as bad:
        excerpts_of(TWO, {})
    assert bad.value.reason == "missing_image"
    with pytest.raises(BadSampleError, match="no text behind"):
        excerpts_of(obelics("a", 1, 2), {1: 1, 2: 2})
    for settings in ({"images": 0}, {"lead": -1}):
        with pytest.raises(RecipeError, match=r"data\.documents"):
            Documents(**settings)


def test_a_start_token_stands_for_each_image_and_says_what_is_seen():
    rows = document_rows(
        [Excerpt(("1.jpg", "3.jpg", "5.jpg"), ("hi", "ab", "", "c"), ""), Excerpt(("1.jpg",), ("", "ab"), "")],
        3,
        StartTokenizer(),
    )
    tokens, lengths, interleaved = rows
    h, i, a, b, c = (ord(letter) for letter in "hiabc")
    assert tokens.tolist()[0] == [1, h, i, 2, 1, a, b, 2, 1, 1, c, 2] and lengths.tolist() == [12, 4]
    assert tokens.tolist()[1] == [1, a, b, 2] + 8 * [0]
    assert interleaved.seen.tolist() == [4 * [0] + 4 * [1] + [2] + 3 * [3], 4 * [1] + 8 * [0]]
    predicted = [
        [tokens[row, place + 1].item() for place in np.flatnonzero(interleaved.is_word[row])] for row in (0, 1)
    ]
    assert predicted == [[a, b, 2, c, 2], [a, b, 2]]  # no place of an image, nothing before the first
    assert interleaved.has_view.tolist() == [[True, True], [True, False], [True, False]]


def test_long_texts_are_cut_to_one_length_without_an_end():
    excerpt = Excerpt(("1.jpg", "3.jpg"), ("abcdefghijkl", "k" * 30, "xy"), "")
    tokens, lengths, interleaved = document_rows([excerpt], 2, StartTokenizer())
    row = tokens[0, : lengths[0]].tolist()
    assert len(row) == 24
    assert row[:10] == [1, *map(ord, "efghijkl"[-8:]), 2] and row[10:20] == [1] + 9 * [ord("k")]
    assert row[20:] == [1, ord("x"), ord("y"), 2] and interleaved.seen[0].tolist() == 10 * [0] + 10 * [1] + 4 * [2]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Fifteen documents, one of them damaged and one too large, and eight pairs."""
    folder = tmp_path_factory.mktemp("mixed")
    documents = [document(f"{n:03d}", FIVE, {place: 20 * n + place for place in FIVE_IMAGES}) for n in range(15)]
    documents[3] = document("003", TWO, {1: 1, 3: b"\xff\xd8\xff no image"})
    documents[7] = document("007", TWO, {1: png_header(9000, 9000), 3: 1})
    pairs = write_shards(folder / "pairs", 1, 8)
    return {"documents": write_documents(folder / "documents", documents), "pairs": pairs}


def stream_of(cards, **settings):
    views = Views((Crop(8),), Captions(), documents=Documents(images=3))
    return Stream(SampleSet(cards), views, StartTokenizer(), seed=1, **{"batch_size": 8, **settings})


def content(batch):
    return [batch.images.clone(), batch.tokens, batch.lengths, batch.draws, batch.ids, batch.cuts], batch.interleaved


def assert_equal(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert torch.equal(mine, theirs)
    assert np.array_equal(one[1].seen, other[1].seen) and np.array_equal(one[1].num_images, other[1].num_images)


def test_documents_and_pairs_share_one_pure_stream_and_bad_ones_are_listed(mixed, tmp_path):
    stream = stream_of(mixed, quarantine=tmp_path / "quarantine.jsonl")
    batches = list(islice(stream.batches(0), 6))
    text = (tmp_path / "quarantine.jsonl").read_text()
    assert text.count('"corrupt_image"') == 1 and text.count('"oversized_image"') == 1
    assert batches[0].images.shape == (3, 8, 8, 8, 3) and batches[0].tokens.shape[0] == 1
    for batch in batches:
        for row, source in enumerate(batch.sources):
            count = batch.interleaved.num_images[row]
            assert count == (1 if source == "pairs" else 3)
            assert batch.images[:count, row].any() and not batch.images[count:, row].any()
            assert batch.interleaved.seen[row].max() == count
    assert_equal(content(next(stream_of(mixed).batches(24))), content(batches[3]))  # from its position alone
    halves = [next(stream_of(mixed, rank=rank, world_size=2).batches(24)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves], dim=1), batches[3].images)
    part = batches[3].narrow(2, 3)
    assert np.array_equal(part.interleaved.seen, batches[3].interleaved.seen[2:5]) and len(part.sources) == 3


def test_processes_that_decode_give_the_same(mixed):
    with_worker = stream_of(mixed, workers=1).batches(0)
    assert_equal(content(next(with_worker)), content(next(stream_of(mixed).batches(0))))
    with_worker.close()


def test_what_reads_pairs_refuses_documents(mixed):
    card = mixed["documents"]
    sample = Sample.of_card(card, open_shards(card)[0], 0)
    for reads in (sample.read_image, lambda: Captions().first(sample)):
        with pytest.raises(RecipeError, match=r"card 'documents': documents: .* this reads pairs"):
            reads()
    with pytest.raises(RecipeError, match="leave out captions and images"):
        Card.from_mapping(
            {"name": "a", "shards": "b", "documents": "json", "images": ["jpg"], "captions": {"txt": 1}},
            card.folder / "c",
        )
