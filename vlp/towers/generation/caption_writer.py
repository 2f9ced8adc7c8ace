"""Captions in words: transformers' searches over the next word, with a decoder that says what may follow."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlp.ground.types import RecipeError
from vlp.towers.caption_decoder import CaptionDecoder
from vlp.towers.caption_steps import can_step, look, step
from vlp.towers.class_token import ClassTokenText
from vlp.towers.dual import DualEncoder
from vlp.towers.writing import Writing


class CaptionWriter:
    """Writes captions with a model that has a decoder.

    Args:
        writing: How words are chosen; draws follow from its seed and from how many batches were written before.

    Raises:
        RecipeError: The model has no decoder, or one that writes no captions, its tokenizer no first token to start
            from, or its blocks are of a kind whose attention is not known here.
    """

    def __init__(self, model: DualEncoder, writing: Writing):
        if model.decoder is None:
            raise RecipeError("the model has no decoder of captions (model.decoder): name a CoCa")
        if not model.decoder.reads_states:
            raise RecipeError(
                "captions: the model's decoder (model.decoder={type: locating}) trains for the towers' sake and "
                "writes none: name a model with a decoder of another type"
            )
        self.model = model
        self.tokenizer = model.tokenizer
        tokens, lengths = self.tokenizer([""])
        if lengths.tolist() != [2]:
            raise RecipeError("text.tokenizer: it puts no start and no end around a caption, which a decoder needs")
        self.start, self.end = tokens[0].tolist()
        self.words = NextWord(model.core.text, model.decoder)
        self.config = generation_config(
            writing, model.context_length - 1, start=self.start, end=self.end, pad=self.tokenizer.pad_id
        )
        self.seed = writing.seed

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> list[str]:
        """Return a caption for each image, whose pixels are normalised."""
        return [self.tokenizer.decode(ids) for ids in self.ids(images)]

    def ids(self, images: Float[Tensor, "n 3 h w"]) -> list[list[int]]:
        """Return the tokens of a caption for each image, without its start and its end."""
        _, image_tokens = self.model.core.visual(images)
        seen = look(self.words.decoder, image_tokens)
        first = torch.full((len(images), 1), self.start, device=images.device)
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            found = self.words.generate(first, generation_config=self.config, images=seen)
        self.seed += 1  # another batch draws anew
        return [self._between(row[1:]) for row in found.tolist()]

    def _between(self, row: list[int]) -> list[int]:
        """Return what stands before the end, or before padding where the context ended first."""
        ends = [row.index(mark) for mark in {self.end, self.tokenizer.pad_id} if mark in row]
        return row[: min(ends, default=len(row))]


class NextWord(PreTrainedModel, GenerationMixin):
    """The text tower and the decoder of a CoCa as transformers generates from them; computes what training does."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, text: ClassTokenText, decoder: CaptionDecoder):
        if not can_step(text, decoder):
            raise RecipeError("captions: the text tower has blocks of another kind than open_clip's usual ones")
        sizes: dict[str, Any] = {
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "num_attention_heads": text.heads,
            "num_hidden_layers": len(text.transformer.resblocks) + len(decoder.resblocks),
        }
        super().__init__(PretrainedConfig(**sizes))
        self.text = text
        self.decoder = decoder

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, images: Any = None, cache: Any = None, past_key_values: Any = None, **_: Any
    ) -> dict[str, Any]:
        """Return what no step has seen yet, and what earlier ones have left."""
        cache = past_key_values if cache is None else cache  # its name in older versions
        start = cache.get_seq_length()
        return {"input_ids": input_ids[:, start:], "images": images, "cache": cache, "start": start}

    def forward(
        self, input_ids: Int64[Tensor, "m l"], images: Any = None, cache: Any = None, start: int = 0, **_: Any
    ) -> CausalLMOutputWithPast:
        """Return the logits of the next word."""
        logits = step(self.text, self.decoder, input_ids, start, images, cache.update)
        return CausalLMOutputWithPast(logits=logits[:, None])


def generation_config(writing: Writing, room: int, *, start: int, end: int, pad: int) -> GenerationConfig:
    """Return what transformers knows it by.

    Args:
        room: Most tokens behind the first.
    """
    most = room if writing.max_words is None else min(room, writing.max_words + 1)
    drawn = {} if writing.temperature is None else {"temperature": writing.temperature, "top_p": writing.top_p}
    return GenerationConfig(
        max_new_tokens=most,
        min_new_tokens=min(writing.min_words + 1, most),
        num_beams=writing.num_beams,
        do_sample=writing.temperature is not None,
        top_k=0 if writing.temperature is not None and writing.top_k is None else writing.top_k,
        repetition_penalty=writing.repetition_penalty,
        bos_token_id=start,
        eos_token_id=end,
        forced_eos_token_id=end,  # within the room, as in training
        pad_token_id=pad,
        **({"length_penalty": writing.length_penalty} if writing.num_beams > 1 else {}),
        **{name: value for name, value in drawn.items() if value is not None},
        **({} if pad == end else {"suppress_tokens": [pad]}),  # what towers take for padding is no word
    )
