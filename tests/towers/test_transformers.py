"""transformers text towers: a folder is enough, padding does not matter, nothing is random in silence."""

import shutil

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from tests.towers.tiny import tiny_batch, tiny_bert, tiny_model
from vlp.ground.types import RecipeError


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def hf(folder, **settings):
    return {"type": "transformers", "name": folder, "context_length": 24, **settings}


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_padding_and_buckets_change_nothing(bert, pooler, proj):
    model = tiny_model(text=hf(bert, pooler=pooler, proj=proj)).eval()
    _, tokens, lengths = tiny_batch(model)
    assert tokens.shape[2] == 24
    full = F.normalize(model.core.text(tokens[0]), dim=-1)
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), full, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient(bert):
    model = tiny_model(text=hf(bert), grad_checkpointing=True)
    model(*tiny_batch(model)).text[:, 0].sum().backward()
    assert [name for name, p in model.core.text.named_parameters() if p.grad is None] == []


def test_lengths_count_the_end_token(bert):
    tokens, lengths = tiny_model(text=hf(bert)).tokenizer(["a cat", "the"])
    assert tokens.tolist() == [[2, 4, 5, 3], [2, 10, 3, 0]]
    assert lengths.tolist() == [4, 3]


def test_pretrained_weights_are_those_of_the_folder(bert):
    expected = transformers.BertModel.from_pretrained(bert).embeddings.word_embeddings.weight
    for pretrained in (True, False):
        model = tiny_model(text=hf(bert, pretrained=pretrained), moved=False)
        assert torch.equal(model.core.text.transformer.embeddings.word_embeddings.weight, expected) is pretrained


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"context_length": 77}, "40 positions"),
        ({"proj": "none"}, "as wide as"),
    ],
)
def test_what_cannot_be_is_refused(bert, settings, complaint):
    with pytest.raises(RecipeError, match=complaint):
        tiny_model(text=hf(bert, **settings))


OTHER_FAMILIES = [
    transformers.DistilBertConfig(
        vocab_size=32, dim=24, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=40
    ),
    transformers.ElectraConfig(
        vocab_size=32, hidden_size=24, embedding_size=24, num_hidden_layers=1, num_attention_heads=2
    ),
    transformers.MPNetConfig(vocab_size=32, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0),
]


@pytest.mark.parametrize("config", OTHER_FAMILIES, ids=lambda config: config.model_type)
@pytest.mark.parametrize("pretrained", [True, False])
def test_families_beyond_open_clip_train_and_ignore_padding(config, pretrained, bert, tmp_path):
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    model = tiny_model(text=hf(str(tmp_path), tokenizer=bert, pretrained=pretrained))
    _, tokens, lengths = tiny_batch(model)
    model(*tiny_batch(model)).text[:, 0].sum().backward()
    assert [name for name, p in model.core.text.named_parameters() if p.grad is None] == []
    model.eval()
    full = F.normalize(model.core.text(tokens[0]), dim=-1)
    torch.testing.assert_close(model.embed_tokens(tokens[0], lengths[0]), full, atol=1e-5, rtol=0)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no transformers configuration"):
        tiny_model(text=hf(str(tmp_path)))


def test_half_of_an_encoder_is_no_start(bert, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(bert, folder)
    state = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in state.items() if "layer.1." not in name}, folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"text\.pretrained: \d+ of the \d+ tensors of the backbone are in"):
        tiny_model(text=hf(str(folder), pretrained=True))


def test_what_was_read_of_the_encoder_is_counted(bert):
    model = tiny_model(text=hf(bert, pretrained=True), moved=False)
    (loaded,) = model.loaded
    assert (loaded.found, loaded.of - loaded.found) == (len(model.core.text.transformer.state_dict()), 1)
