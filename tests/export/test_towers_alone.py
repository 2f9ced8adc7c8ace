"""A model whose decoder nobody else has a place for: its towers are exported, and it is said what is not."""

from __future__ import annotations

import torch

from tests.towers.test_gated_decoder import GATED
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.export import export_model
from vlp.towers.load import load_model


@torch.no_grad()
def test_the_towers_are_exported_and_the_decoder_is_said_to_be_lost(tmp_path):
    model = tiny_model(**{**GATED, "text": {**GATED["text"], "vocab_size": 49408}})
    report = export_model(model, tmp_path / "cosmo", name="cosmo", recipe_text="", results=[], data_note="")
    assert "open_clip" in report.formats and "words" not in report.parity["open_clip"]
    assert "not for captions: no library has a place for a decoder with gates" in str(report)
    assert "Not exported for captions: no library" in (tmp_path / "cosmo" / "README.md").read_text()
    again = load_model(str(tmp_path / "cosmo"))
    assert again.decoder is None and model.decoder is not None
    pixels, tokens, lengths = tiny_batch(model)
    torch.testing.assert_close(
        again(pixels, tokens, lengths.numpy()).image, model.eval()(pixels, tokens, lengths.numpy()).image
    )
