"""Runs on interleaved documents: resumed, on two processes, in micro-batches, and what does not fit beside them."""

from __future__ import annotations

import pytest

from tests.documents import document, obelics, write_documents
from tests.run.whole_runs import (
    assert_learns_and_resumes,
    assert_micro_batches_change_no_loss,
    assert_two_processes_equal_one,
)
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import WORDS, tiny_bert
from vlp.ground.types import RecipeError
from vlp.run.assemble import assemble
from vlp.train import train

READS = (
    "model.embed_dim=32",
    "model.image={type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32, pooler_queries: 5,"
    " pooler_heads: 2, patch_dropout: 0}",
    "model.text={pool: cls, width: 32, vocab_size: 13, context_length: 24}",
    "model.decoder={type: gated, layers: 1, heads: 2, every: 1}",
    "objective={clip: {}, uniformity: null, captioning: {weight: 1.0}}",
    "data.documents={images: 3}",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Cards of documents and of pairs, and a model of thirteen words."""
    folder = tmp_path_factory.mktemp("cards")
    records = [
        obelics(
            WORDS[4 + n % 9], 1, f"{WORDS[4 + n % 7]} {WORDS[4 + n % 5]}", 3, WORDS[5 + n % 8], 5, "a cat", 7, "two"
        )
        for n in range(16)
    ]
    write_documents(
        folder / "documents",
        [
            document(f"{n:03d}", record, {k: 9 * n + k for k in (1, 3, 5, 7)[: 1 + n % 4]})
            for n, record in enumerate(records)
        ],
    )
    write_shards(folder / "pairs", 1, 8)
    (folder / "pairs" / "card.yaml").write_text("name: pairs\nshards: '*.tar'\n")
    train = (
        f"{{tiny: null, documents: {{card: {folder}/documents/card.yaml}}, pairs: {{card: {folder}/pairs/card.yaml}}}}"
    )
    return (*READS, f"model.text.tokenizer={tiny_bert(tmp_path_factory.mktemp('bert'))}", f"data.train={train}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
    """A run without interruption."""
    return train(tiny_recipe(tmp_path_factory.mktemp("whole"), "", *settings))


def test_micro_batches_change_no_loss(tmp_path, settings, whole):
    assert_micro_batches_change_no_loss(tmp_path, settings, whole)


def test_it_learns_and_resumes_bit_for_bit(whole):
    assert_learns_and_resumes(whole, "captioning")


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path, settings, whole):
    assert_two_processes_equal_one(tmp_path, settings, whole)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ("data.documents=null",),
            r"data\.train: documents: a card of interleaved documents, .* set data\.documents=\{\}",
        ),
        (("data.train.documents=null",), r"data\.documents\.images=3: no card of data\.train holds documents"),
        (
            ("model.decoder=null", "model.decoder={type: transformer, layers: 1, heads: 2}"),
            r"set model\.decoder=\{type: gated\}",
        ),
        (("strategies.image_views={}",), r"strategies\.image_views: would take the images of a document for views"),
        (("data.text_views={a: {}}", "objective.clip_views={}"), r"data\.text_views: of pairs alone"),
        (("data.captions.augment.swap=0.5",), r"data\.captions\.augment: of pairs alone"),
        (("model.text.context_length=15",), r"model\.text\.context_length=15: too few tokens for 3 images"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_refused(tmp_path, settings, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        assemble(tiny_recipe(tmp_path, "", *settings, *overrides), resume=False, allow_changes=False)
