"""A network that looks at an image and a caption together and says how well they fit."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlp.towers.caption_decoder import build_decoder

HEAD_WIDTH = 64


class CrossRanker(nn.Module):
    """The multimodal half of a CoCa (Yu et al. 2022, arXiv:2205.01917) over tokens of its own, with a score on top.

    A score is the logit of the one word of its vocabulary behind the last token of a caption, which has seen all
    earlier ones and the image.

    Args:
        num_tokens: Of captions.
        channels: Of the places of images.
        layers: Blocks that look at the caption, each followed by one that looks at the image.
        context_length: Tokens that it reads; longer captions are cut.
    """

    def __init__(self, num_tokens: int, channels: int, *, width: int, layers: int, context_length: int):
        super().__init__()
        self.context_length = context_length
        self.words = nn.Embedding(num_tokens, width)
        self.places = nn.Parameter(torch.empty(context_length, width))
        nn.init.normal_(self.words.weight, std=0.02)  # as open_clip's text transformer begins
        nn.init.normal_(self.places, std=0.01)
        heads = max(1, width // HEAD_WIDTH)
        config = {"width": width, "layers": layers, "heads": heads, "context_length": context_length, "vocab_size": 1}
        self.decoder = build_decoder(config, {"quick_gelu": False})
        self.decoder.image_map = nn.Linear(channels, width)

    def forward(
        self, image: Float[Tensor, "n p c"], tokens: Int64[Tensor, "n l"], counts: Int64[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return a score of each image with its caption.

        Args:
            tokens: At most as many as the context is long; `counts` of them belong to a caption, or all.
        """
        width = tokens.shape[1]
        # not the decoder's: an objective puts buffers of its networks back in place between forward and backward
        later = self.places.new_full((width, width), -torch.inf).triu(1)
        states = self.decoder.states(image, self.words(tokens) + self.places[:width], mask=later)
        last = (counts.clamp(max=width) - 1)[:, None, None].expand(-1, 1, states.shape[2])
        scores: Tensor = (states.gather(1, last) @ self.decoder.text_projection).flatten()
        return scores
