"""The decoder of LocCa: captions, boxes of captions and captions of boxes, beside any text tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from numpy.typing import NDArray
from open_clip.transformer import LayerNorm
from torch import Tensor, nn

from vlp.ground.draws import pick, uniform
from vlp.ground.ranges import Count
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import RecipeError, send
from vlp.towers.attention import LeanBlock
from vlp.towers.base import caption_decoders
from vlp.towers.caption_decoder import CaptionDecoder, bare_decoder
from vlp.towers.linear_cross_entropy import linear_cross_entropy, number_format
from vlp.towers.location_layout import REGION_PARTS, SIDES, lay_out_regions

LOCATING = "locating"  # the entry of `multimodal_cfg` that no other library knows
SALT = 403  # of what decides how a caption is predicted
FINEST = 2**24  # numbers in [0, 1) of float32 that differ
CAPTION, EXPRESSION, GROUNDED, HIDDEN = range(4)  # what stands before the three tasks, and for a token that is not told


@caption_decoders.register("locating")
class LocatingSource:
    """A decoder of captions, of boxes and of captions of boxes.

    Wan et al. 2024 (LocCa, arXiv:2403.19596), as SigLIP 2 takes it over (Tschannen et al. 2025, section 2.2,
    arXiv:2502.14786): a transformer decoder with embeddings of its own, whose blocks attend to earlier tokens and then
    to the unpooled tokens of the image. It reads no text tower, so that any will do. Sides of boxes are whole numbers,
    words of its vocabulary alone. Half of the captions are predicted in parallel, as in CapPa (Tschannen et al. 2023,
    arXiv:2306.07915): all tokens at once, from as many hidden ones as the context has, without a causal mask.

    Args:
        layers: Number of blocks; half of the text tower's in SigLIP 2.
        heads: Number of attention heads.
        width: Of its tokens; null is the text tower's.
        bins: Sides of boxes are whole numbers from 0 to this.
        parallel: Share of the captions that are predicted in parallel.
    """

    def __init__(
        self,
        *,
        layers: Count = 6,
        heads: Count = 12,
        width: Count | None = None,
        bins: int = 500,
        parallel: float = 0.5,
    ):
        if bins < 1:
            raise RecipeError(f"model.decoder.bins: {bins} must be at least 1")
        if not 0 <= parallel <= 1:
            raise RecipeError(f"model.decoder.parallel: {parallel} is not a share in [0, 1]")
        self.layers = layers
        self.heads = heads
        self.width = width
        self.told = {"bins": bins, "parallel": parallel}

    def config(self, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return its sizes, and what open_clip has no place for."""
        width = text_cfg.get("width") if self.width is None else self.width
        if width is None:
            raise RecipeError("model.decoder.width: the text tower does not say how wide it is: set it, such as 768")
        if width % self.heads:
            raise RecipeError(f"model.decoder.heads {self.heads} does not divide the width {width} of the decoder")
        context = text_cfg.get("context_length", 77)
        sizes = {"width": width, "layers": self.layers, "heads": self.heads, "context_length": context}
        return {**sizes, LOCATING: self.told}


class AttendingBlock(LeanBlock):
    """open_clip's block without its second half, which the block behind it has: one that looks at the image."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, norm_layer=LayerNorm)
        del self.ln_2, self.mlp, self.ls_2

    def forward(self, q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
        """Attend to what the mask shows."""
        found: Tensor = q_x + self.ls_1(self.attention(self.ln_1(q_x), k_x, v_x, attn_mask))
        return found


class Told(NamedTuple):
    """What a decoder says of the captions of a batch, and of those of its regions.

    Args:
        caption_losses: -log of the probability of each caption; `caption_words`: of how many tokens, on the CPU.
        region_losses: The same of a region's caption, the box behind it, a box and the caption behind that, in this
            order; None where nobody asks for regions. `region_words`: of how many tokens, on the CPU.
    """

    caption_losses: Float32[Tensor, " n"]
    caption_words: Int64[Tensor, " n"]
    region_losses: Float32[Tensor, "n 4"] | None = None
    region_words: Int64[Tensor, "n 4"] | None = None


class LocatingDecoder(CaptionDecoder):
    """Blocks of a standard transformer decoder in two halves, over words, whole numbers and marks of tasks.

    Attributes:
        words: Embeddings of words, then of whole numbers, of the marks of the three tasks, and of a hidden token.
        places: Embeddings of positions.
        num_words: Words of the tokenizer.
        bins: The largest whole number.
        parallel: Share of the captions that are predicted in parallel.
        context_length: Tokens that a caption may have.
    """

    reads_states = False
    num_words: int
    bins: int
    parallel: float
    context_length: int

    def mark(self, which: int) -> int:
        """Return the token of a task, or of what is hidden."""
        return self.num_words + self.bins + 1 + which

    def tell(
        self,
        image_tokens: Float[Tensor, "n k v"],
        tokens: Int64[Tensor, "n l"],
        lengths: Int64[NDArray[np.int64], " n"],
        num_start: int,
        regions: RegionRows | None = None,
        draws: Float32[Tensor, "n d"] | None = None,
    ) -> Told:
        """Return how likely captions are, and regions with their captions, in one pass over all of them.

        Args:
            tokens: Of captions, with what the tokenizer puts around them.
            lengths: Of captions; on the CPU, so that nothing waits for the device.
            num_start: Tokens before the first word.
            regions: A part of each image.
            draws: Uniform numbers in [0, 1) of each sample, which say whose captions are predicted in parallel; without
                them none is.
        """
        is_drawn = draws is not None and self.parallel > 0
        length = (self.context_length if is_drawn else tokens.shape[1]) - num_start
        words = nn.functional.pad(tokens[:, num_start:], (0, length - tokens.shape[1] + num_start))
        is_word = np.arange(length) < lengths[:, None] - num_start
        marks, parts, sizes = [(CAPTION, words)], None, [length]
        counts = torch.from_numpy(is_word.sum(axis=1))
        if regions is not None:
            layout = lay_out_regions(regions, num_start, self.num_words, self.bins)
            sent = send(torch.from_numpy(np.stack([layout.tokens, layout.parts])), tokens.device)
            marks += zip((EXPRESSION, GROUNDED), sent[0].chunk(2, dim=1), strict=True)
            parts, sizes = sent[1], [length, layout.length, layout.length]
            is_word = np.concatenate([is_word, layout.is_word], axis=1)
        inputs = torch.cat([self._behind(mark, row) for mark, row in marks], dim=1)
        mask = self._mask(sizes, inputs.device)
        if draws is not None and is_drawn:
            inputs, mask = self._in_parallel(inputs, mask, length, draws)
        states = self.states(image_tokens, self._embed(inputs, sizes), mask=mask)
        losses = self._missed(states, torch.cat([row for _, row in marks], dim=1), is_word)
        if regions is None or parts is None:
            return Told(losses.sum(dim=1), counts)
        of_caption, of_regions = losses.split([length, 2 * sizes[1]], dim=1)
        by_part = torch.stack([(of_regions * (parts == part)).sum(dim=1) for part in range(REGION_PARTS)], dim=1)
        return Told(of_caption.sum(dim=1), counts, by_part, torch.from_numpy(layout.counts))

    def logits(self, image_tokens: Float[Tensor, "n k v"], inputs: Int64[Tensor, "n l"]) -> Float[Tensor, "n l m"]:
        """Return the logits of the token behind each of some tokens, the first of which marks a task."""
        return self._read(image_tokens, inputs) @ self.text_projection

    def boxes(
        self,
        image_tokens: Float[Tensor, "n k v"],
        tokens: Int64[Tensor, "n l"],
        lengths: Int64[NDArray[np.int64], " n"],
        num_start: int,
    ) -> Float32[Tensor, "n 4"]:
        """Return the likeliest box of each caption, in shares of the image, side by side: left, top, right and bottom.

        Args:
            tokens: Of captions, with what the tokenizer puts around them; `lengths`: how many, on the CPU.
            num_start: Tokens before the first word.
        """
        inputs = self._behind(EXPRESSION, nn.functional.pad(tokens[:, num_start:], (0, SIDES)))
        ends = send(torch.from_numpy(lengths - num_start), tokens.device)[:, None]
        sides: list[Tensor] = []
        for place in range(SIDES):
            if sides:
                inputs = inputs.scatter(1, ends + place, self.num_words + sides[-1])
            states = self._read(image_tokens, inputs)
            last = states.gather(1, (ends + place)[:, :, None].expand(-1, -1, states.shape[2]))[:, 0]
            sides.append((last @ self.text_projection[:, self.num_words :]).argmax(dim=1, keepdim=True))
        return torch.cat(sides, dim=1).float() / self.bins

    def _read(self, image_tokens: Float[Tensor, "n k v"], inputs: Int64[Tensor, "n l"]) -> Float[Tensor, "n l w"]:
        """Return the states of one sequence of each image."""
        sizes = [inputs.shape[1]]
        return self.states(image_tokens, self._embed(inputs, sizes), mask=self._mask(sizes, inputs.device))

    def _behind(self, mark: int, words: Int64[Tensor, "n l"]) -> Int64[Tensor, "n l"]:
        """Return what is read where some words are predicted one by one: the mark of a task, and all but the last."""
        return torch.cat([words.new_full((len(words), 1), self.mark(mark)), words[:, :-1]], dim=1)

    def _embed(self, inputs: Int64[Tensor, "n l"], sizes: list[int]) -> Float[Tensor, "n l w"]:
        found: Tensor = self.words(inputs) + torch.cat([self.places[:size] for size in sizes])
        return found

    def _mask(self, sizes: list[int], device: torch.device) -> Float32[Tensor, "1 1 l l"]:
        """Return what is added to the logits of attention: each token sees itself and earlier ones of its sequence."""
        hidden = torch.ones(sum(sizes), sum(sizes), dtype=torch.bool, device=device)
        start = 0
        for size in sizes:
            hidden[start : start + size, start : start + size] = hidden[:size, :size].triu(1)
            start += size
        return torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)[None, None]

    def _in_parallel(
        self, inputs: Int64[Tensor, "n l"], mask: Float32[Tensor, "1 1 l l"], length: int, draws: Float32[Tensor, "n d"]
    ) -> tuple[Int64[Tensor, "n l"], Float32[Tensor, "n 1 l l"]]:
        """Hide all tokens of some captions, and let each of their places see all others."""
        number = uniform(pick(draws[:, 0], FINEST), 0, SALT, 1)
        chosen = number < self.parallel
        is_caption = torch.arange(inputs.shape[1], device=inputs.device) < length
        inputs = inputs.masked_fill(chosen & is_caption, self.mark(HIDDEN))
        seen = chosen[:, :, None] & (is_caption[:, None] & is_caption)
        return inputs, mask.masked_fill(seen[:, None], 0.0)

    def _missed(
        self, states: Float[Tensor, "n l w"], targets: Int64[Tensor, "n l"], is_word: NDArray[np.bool_]
    ) -> Float32[Tensor, "n l"]:
        """Return -log of the probability of each token that is one, zeros elsewhere."""
        at = send(torch.from_numpy(np.flatnonzero(is_word)), targets.device)
        hidden, labels = states.flatten(0, 1).index_select(0, at), targets.flatten().index_select(0, at)
        losses = linear_cross_entropy(hidden, self.text_projection, labels, number_format(hidden.device.type))
        return losses.new_zeros(targets.numel()).index_copy(0, at, losses).view(targets.shape)


def build_locating(config: Mapping[str, Any], model_cfg: Mapping[str, Any], num_words: int) -> LocatingDecoder:
    """Build the decoder of a `multimodal_cfg` that reads and writes boxes, with random weights.

    Args:
        num_words: Of the tokenizer.
    """
    told, width, layers = config[LOCATING], config["width"], config["layers"]
    outputs = num_words + told["bins"] + 1
    decoder = bare_decoder(LocatingDecoder, {**config, "vocab_size": outputs}, model_cfg)
    decoder.num_words, decoder.bins, decoder.parallel = num_words, told["bins"], told["parallel"]
    decoder.context_length = config["context_length"]
    decoder.resblocks = nn.ModuleList(AttendingBlock(width, config["heads"]) for _ in range(layers))
    decoder.words = nn.Embedding(outputs + HIDDEN + 1, width)
    decoder.places = nn.Parameter(torch.empty(config["context_length"] + SIDES, width))
    _begin(decoder, width, layers)
    return decoder


def _begin(decoder: LocatingDecoder, width: int, layers: int) -> None:
    """Give the decoder its first weights, those that open_clip's text transformer starts from."""
    nn.init.normal_(decoder.words.weight, std=0.02)
    nn.init.normal_(decoder.places, std=0.01)
    nn.init.normal_(decoder.text_projection, std=width**-0.5)
    for block in (*decoder.resblocks, *decoder.cross_attn):
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(2 * width * layers) ** -0.5)
    for block in decoder.cross_attn:
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(2 * width * layers) ** -0.5)
