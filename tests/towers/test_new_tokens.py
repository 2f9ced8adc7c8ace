"""Words become tokens: each begins as the mean of its pieces, and all else is read, and computed, as before."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.towers.tiny import CAPTIONS, TEXT, tiny_bert, tiny_export, tiny_model
from vlp.export.as_peft import export_adapters
from vlp.export.run import export_run
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.run.checkpoint import latest, read_lock
from vlp.run.trained_model import load_model_of_run
from vlp.towers.load import load_model
from vlp.towers.new_tokens import learn_words, read_words
from vlp.towers.token_table import token_table
from vlp.towers.tokenizers import ClipTokenizer, TransformersTokenizer
from vlp.train import train

WORDS = ("covid-19", "Polar Bear", "oxaliplatin")
SENTENCES = [
    "a cat and a polar bear",
    "two dogs near the old harbour",
    "a photo of a leash",
    "covid test, 19 times",
] * 20
LENGTH = ("data.train=embedded", "train.steps=1")
GROWN = {**TEXT, "context_length": 24, "new_tokens": WORDS}


def trained(kind: str) -> TransformersTokenizer:
    """Return a tokenizer as RoBERTa's (bytes) or as XLM-R's (pieces behind a mark for spaces)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "bytes":
        words = Tokenizer(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    else:
        words = Tokenizer(models.Unigram())
        words.normalizer = normalizers.NFKC()
        words.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    words.train_from_iterator(SENTENCES, trainer)
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return TransformersTokenizer(fast, name=kind, context_length=24)


TOKENIZERS = {
    "clip": lambda: ClipTokenizer(context_length=24),
    "bytes": lambda: trained("bytes"),
    "pieces": lambda: trained("pieces"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_new_word_is_one_token_and_nothing_else_changes(kind):
    before = TOKENIZERS[kind]()
    found = learn_words(before, WORDS, sees_padding=False)
    words = found.words
    ids = dict(zip(words, found.ids, strict=True))
    assert words == (("covid-19", "polar bear", "oxaliplatin") if kind == "clip" else WORDS)
    (start, *_, end), number = before(["a"])[0][0].tolist(), ids[words[0]]
    for caption, pieces in (("a {} a", 1), ("{}", 1), ("a {}, a", 1), ("x{} a", 0), ("a {}s", 0)):
        row = found.tokenizer([caption.format(words[0])])[0][0].tolist()
        assert row.count(number) == pieces, caption
        assert (row[0], row[-1]) == (start, end)
        if not pieces:
            assert row == before([caption.format(words[0])])[0][0].tolist()
    assert ids[words[1]] in found.tokenizer([f"two {WORDS[1]}s and a {WORDS[1]}"])[0][0]
    for caption in (*SENTENCES[1:3], *CAPTIONS[:4]):
        assert torch.equal(found.tokenizer([caption])[0], before([caption])[0]), caption


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_word_begins_as_the_mean_of_what_it_was_read_as(kind):
    before = TOKENIZERS[kind]()
    found = learn_words(before, WORDS, sees_padding=False)
    table = torch.randn(before.highest_id + 1, 5, generator=torch.Generator().manual_seed(7))
    for word, row in zip(WORDS, found.means(table), strict=True):
        whole, around = (before([text])[0][0].tolist() for text in (f"a {word} a", "a"))
        inside = whole[len(around) - 1 : 1 - len(around)]  # between the first "a" and the last
        total = torch.zeros(5)
        for piece in inside:
            total += table[piece]
        torch.testing.assert_close(row, total / len(inside))


def test_a_model_keeps_all_that_it_knew():
    plain, model = tiny_model(text={**TEXT, "context_length": 24}, moved=False), tiny_model(text=GROWN, moved=False)
    old, new = (token_table(each.core.text).weight for each in (plain, model))
    assert new.shape[0] == old.shape[0] + 3 == model.core.text.vocab_size == model.model_cfg["text_cfg"]["vocab_size"]
    assert torch.equal(new[: len(old)], old)
    assert torch.equal(new[len(old) :], model.new_tokens.means(old))
    for caption in CAPTIONS:
        seen = []
        for each in (plain, model):
            tokens, lengths = each.tokenizer([caption])
            seen.append(each.eval().embed_tokens(tokens, lengths.numpy()))
        torch.testing.assert_close(*seen, atol=1e-6, rtol=0)
    assert "3 words became tokens, which had 3.7 pieces on average" in model.origins()[0]


def test_encoders_of_transformers_grow_too(tmp_path):
    folder = tiny_bert(tmp_path / "bert")
    text = {"type": "transformers", "name": folder, "context_length": 16, "new_tokens": ("zebra", "two dogs")}
    model = tiny_model(text=text)
    table = token_table(model.core.text)
    assert len(table.weight) == model.core.text.config.vocab_size == 15
    assert model.new_tokens.pieces == ((1,), (6, 7))  # an unknown word, and two known ones
    assert model.tokenizer(["a zebra", "two dogs"])[0].tolist() == [[2, 4, 13, 3], [2, 14, 3, 0]]


def test_prompts_leave_room_among_them():
    model = tiny_model(text=GROWN, tune={"type": "prompts", "image": 0})
    tokens, lengths = model.tokenizer(["covid-19 " * 30])
    assert (lengths.tolist(), tokens[0, 1].item()) == ([20], 49408)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("covid-19", "  COVID-19"), "'  COVID-19' is 'covid-19' over again"),
        (("cat", "dog"), "all 2 words are tokens already"),
        ((" \u00a0",), "nothing is left of"),
    ],
)
def test_what_cannot_be_learned_is_refused(given, words):
    with pytest.raises(RecipeError, match=words):
        learn_words(ClipTokenizer(context_length=24), given, sees_padding=False)


def test_a_tower_that_sees_zeros_needs_another_tokenizer():
    with pytest.raises(RecipeError, match=r"text\.new_tokens: the text tower sees the zeros"):
        tiny_model(text={**GROWN, "causal": False, "pool": "first"})


def test_words_come_from_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("covid-19\n\n  polar bear \n", encoding="utf-8-sig")
    assert read_words(str(tmp_path / "words.txt")) == ("covid-19", "polar bear")
    with pytest.raises(RecipeError, match=r"'covid-19' is no file of words .*; write words as a list"):
        read_words("covid-19")


# ---------------------------------------- runs
def tuned(folder, *overrides):
    settings = ("data.train=embedded", "data.workers=0", "optimizer.learning_rate=0.01", f"runs={folder}")
    train_section = "train={steps: 2, batch_size: 8, threads: 1, precision: float32}"
    return train(load_recipe("base", (*settings, train_section, "checkpoint.every=1", *overrides)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that learned three words of a file which is gone, from the weights of an export."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "words.txt").write_text("\n".join(WORDS))
    start = tiny_export(folder / "start")
    found = tuned(folder, f"model.weights={start}", f"model.text.new_tokens={folder}/words.txt", "name=tuned")
    (folder / "words.txt").unlink()
    return found


def test_a_start_is_grown_bit_for_bit(run):
    recipe = read_lock(run)
    assert recipe.model.text.new_tokens == WORDS
    table = token_table(build_model(recipe.model).core.text).weight
    start = load_model(recipe.model.weights)
    before = token_table(start.core.text).weight
    assert torch.equal(table[: len(before)], before)
    found = learn_words(start.tokenizer, WORDS, sees_padding=False)
    assert torch.equal(table[len(before) :], found.means(before))


def test_a_run_goes_on_and_is_exported_with_its_words(run, tmp_path):
    model = load_model_of_run(run).model
    assert torch.equal(token_table(model.core.text).weight, latest(run).weights()["core.text.token_embedding.weight"])
    report = export_run(run, tmp_path / "export")
    assert report.formats == ("open_clip", "transformers")
    again = load_model(str(report.folder))
    assert torch.equal(again.tokenizer(["a covid-19"])[0], model.tokenizer(["a covid-19"])[0])


def test_words_that_learn_nothing_are_warned_of_and_are_no_adapters(run, tmp_path):
    settings = (f"model.weights={read_lock(run).model.weights}", f"model.text.new_tokens=[{WORDS[0]}]", "name=adapted")
    with pytest.warns(VlpWarning, match="new ones stay the mean of their pieces"):
        adapted = tuned(tmp_path, *settings, "model.tune=lora")
    with pytest.raises(RecipeError, match=r"learned words \(text\.new_tokens\), for which peft's"):
        export_adapters(adapted, tmp_path / "adapters")


def test_it_resumes_bit_for_bit(run, tmp_path):
    recipe = read_lock(run).model_copy(update={"runs": str(tmp_path)})
    whole = latest(train(recipe)).weights()
    shutil.rmtree(recipe.folder / "checkpoints" / "step_00000002")
    again = latest(train(recipe, resume=True)).weights()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_further_words_stand_behind_those_of_the_start(run, tmp_path):
    more = [*WORDS, "zygomatic"]
    recipe = load_recipe("base", (f"model.weights={run}", f"model.text.new_tokens={more}", "name=more", *LENGTH))
    model = build_model(recipe.model)
    known = latest(run).weights()["core.text.token_embedding.weight"]
    table = token_table(model.core.text).weight
    assert torch.equal(table[: len(known)], known)
    assert torch.equal(table[len(known) :], model.new_tokens.means(known)[3:])


@pytest.mark.parametrize("words", ["[oxaliplatin, covid-19, polar bear]", "[zygomatic]", "[]"])
def test_other_words_than_those_of_the_start_are_refused(run, words):
    recipe = load_recipe("base", (f"model.weights={run}", f"model.text.new_tokens={words}", "name=other", *LENGTH))
    with pytest.raises(RecipeError, match=r"text\.new_tokens: .* was trained with 3 words of its own"):
        build_model(recipe.model)
