"""A text tower and a tokenizer that do not fit are refused at the start, with the key and a way out."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.towers.tiny import TEXT, tiny_model
from vlp.ground.types import RecipeError
from vlp.towers.tokenizer_fit import WORDS

LETTERS = [*"abcdefghijklmnopqrstuvwxyz.0123456789"]


def unigram(folder, *, ends=True, starts=True, size=60):
    """Write a unigram tokenizer as SentencePiece's usually are: start 0, padding 1, end 2, then pieces."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, *WORDS]
    pieces = [*dict.fromkeys(pieces), *(f"piece{number}" for number in range(size))][:size]
    words = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3, byte_fallback=False))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = " ".join([*["<s>"] * starts, "$A", *["</s>"] * ends])
    words.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return str(folder)


def text(folder, **settings):
    return {**TEXT, "tokenizer": folder, "context_length": 16, "vocab_size": 60, **settings}


def test_pooling_at_the_highest_id_is_refused_where_that_is_a_word(tmp_path):
    model = tiny_model(text=text(unigram(tmp_path)))
    with pytest.raises(RecipeError, match=r"text\.pool=eos and text\.end_id=2"):
        _ = model.tokenizer
    assert tiny_model(text=text(unigram(tmp_path), pool="eos", end_id=2)).tokenizer.pad_id == 1


def test_the_end_token_must_be_the_one_that_is_read(tmp_path):
    with pytest.raises(RecipeError, match=r"text\.end_id=2"):
        _ = tiny_model(text=text(unigram(tmp_path), pool="eos", end_id=5)).tokenizer
    with pytest.raises(RecipeError, match=r"text\.end_id=49407"):
        _ = tiny_model(text={**TEXT, "pool": "eos", "end_id": 5}).tokenizer


@pytest.mark.parametrize("pool", ["eos", "argmax"])
def test_a_tokenizer_without_end_token_is_refused(tmp_path, pool):
    with pytest.raises(RecipeError, match=r"this tokenizer puts none there"):
        _ = tiny_model(text=text(unigram(tmp_path, ends=False), pool=pool, end_id=2)).tokenizer


def test_a_tokenizer_that_makes_nothing_of_an_empty_caption_is_refused(tmp_path):
    folder = unigram(tmp_path, ends=False, starts=False)
    with pytest.raises(RecipeError, match="no token of an empty caption"):
        _ = tiny_model(text=text(folder, causal=False, pool="first")).tokenizer


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"ids up to 59, the tower 30 rows: set text\.vocab_size=60"):
        _ = tiny_model(text=text(unigram(tmp_path), vocab_size=30, pool="eos", end_id=2)).tokenizer
    with pytest.raises(RecipeError, match=r"text\.vocab_size=49408"):
        _ = tiny_model(text={**TEXT, "vocab_size": 1000}).tokenizer


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta"])
def test_positions_behind_the_padding_are_fewer(tmp_path, family):
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config, model = (getattr(transformers, family + kind) for kind in ("Config", "Model"))
    model(config(vocab_size=60, max_position_embeddings=20, pad_token_id=1, **settings)).save_pretrained(tmp_path)
    folder = unigram(tmp_path)
    encoder = {"type": "transformers", "name": folder, "proj": "linear"}
    with pytest.raises(RecipeError, match=r"cannot read 20 tokens.*text\.context_length=18"):
        tiny_model(text={**encoder, "context_length": 20})
    found = tiny_model(text={**encoder, "context_length": 18})
    tokens, lengths = found.tokenizer([" ".join(WORDS * 4)])
    assert tokens.shape == (1, 18)
    assert torch.isfinite(found.embed_tokens(tokens, lengths.numpy())).all()


def test_a_padding_that_the_encoder_does_not_mask_is_refused(tmp_path):
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.RobertaModel(transformers.RobertaConfig(vocab_size=60, pad_token_id=0, **settings)).save_pretrained(
        tmp_path
    )
    found = tiny_model(text={"type": "transformers", "name": unigram(tmp_path), "context_length": 10})
    with pytest.raises(RecipeError, match="fills captions with the id 1, the encoder masks 0"):
        _ = found.tokenizer
