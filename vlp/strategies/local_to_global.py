"""Small crops and hidden patches, beside what averaged weights say of the whole of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from vlp.ground.draws import below_one, pick, uniform
from vlp.ground.types import Batch, Embeddings, RecipeError, Teacher
from vlp.strategies.averaged import Averaged
from vlp.strategies.base import strategies
from vlp.strategies.random_crops import NUM_DRAWS, random_crops
from vlp.towers.dual import DualEncoder
from vlp.towers.hidden_patches import HiddenPatches
from vlp.towers.image_tokens import map_shape, only_rows
from vlp.towers.resized_positions import take_any_size
from vlp.towers.trial_inputs import one_image

SALT = 88


@strategies.register("local_to_global")
class LocalToGlobal(Averaged):
    """Show small crops and images with hidden patches to the image tower, and a large crop to averaged weights.

    The views of SigLIP 2's last fifth (Tschannen et al. 2025, arXiv:2502.14786), for `self_distillation`
    (SILC, arXiv:2310.13355) and `masked_prediction` (TIPS, arXiv:2410.16512), either of them or both. All is cut out
    of the first view on the device; that view itself goes to the other terms, as it is. While the weights of these
    terms are 0, before their `weight.first_step`, nothing is shown or averaged and the teacher is a copy of the model,
    from which it sets out. Then a step has a further pass of both towers without a graph, one of the image tower on a
    large crop with hidden patches, and one on `count` small crops, which follow the views of the data.

    Args:
        decay: Weight of the past in the averages at each step.
        count: Small crops of each image; 1 global and 8 local ones in SigLIP 2.
        size: Their side in pixels; for transformers a multiple of the patch size.
        scale: Their smallest and largest share of the first view's area.
        global_scale: The same of the large crop.
        flip: Share of crops that are mirrored.
        hidden: Share of the patches of the large crop that the tower that learns does not see.

    Raises:
        ValueError: No crops, shares outside (0, 1], or patches that are all hidden or none.
    """

    provides = frozenset({"teacher", "hidden_patches"})
    changes_captions = False

    def __init__(
        self,
        *,
        decay: float = 0.996,
        count: int = 8,
        size: int = 96,
        scale: tuple[float, float] = (0.05, 0.4),
        global_scale: tuple[float, float] = (0.4, 1.0),
        flip: float = 0.5,
        hidden: float = 0.5,
    ):
        super().__init__(decay=decay, warmup=False, base_batch=None)
        if min(count, size) < 1:
            raise ValueError(f"count {count} and size {size} must be at least 1")
        for name, (low, high) in (("scale", scale), ("global_scale", global_scale)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} ({low}, {high}) must be two shares of the area in (0, 1], the smaller first")
        if not (0 <= flip <= 1 and 0 < hidden < 1):
            raise ValueError(f"flip {flip} must lie in [0, 1] and hidden {hidden} in (0, 1)")
        self.count, self.size = count, size
        self.scale, self.global_scale = scale, global_scale
        self.flip, self.hidden = flip, hidden
        self._wanted = frozenset({"views", *self.provides})
        self._patches: HiddenPatches | None = None
        self._token: nn.Parameter | None = None
        self._patches_per_pixel = (0.0, 0.0)

    def borrow(self, lent: Mapping[str, nn.Parameter]) -> None:
        self._token = lent.get("mask_token")

    def twin_of(self, model: DualEncoder) -> DualEncoder:
        if self._token is not None:
            self._measure(model)  # a tower that is split cannot be run by itself
        return super().twin_of(model)

    @torch.no_grad()
    def start(self, model: DualEncoder) -> None:
        super().start(model)
        if model.locked_image:
            raise RecipeError(
                "model.freeze: strategies.local_to_global trains the image tower, and it is locked: train some of it, "
                "or leave the strategy out"
            )
        for is_read, reader in ((model.hands_out_features, "heads"), (model.hands_out_maps, "places of views")):
            if is_read:
                raise RecipeError(
                    f"strategies.local_to_global: small crops have no {reader} to read: leave it out, or heads that "
                    "read features and terms that compare places"
                )
        if self._token is not None:
            self._patches = HiddenPatches(model.core.visual)
            if self._twin is None:
                self._measure(model)
        for towers in filter(None, (model, self._twin)):
            take_any_size(towers.core.visual)
        device = next(model.parameters()).device
        try:
            with model.at_rest():
                model.embed_images(torch.zeros(1, 3, self.size, self.size, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"strategies.local_to_global.size: the image tower does not take {self.size} px: for a vision "
                f"transformer of open_clip or timm choose a multiple of its patch size ({error})"
            ) from error

    def _measure(self, model: DualEncoder) -> None:
        grid, sides = map_shape(model.core.visual)[:2], one_image(model.core.visual).shape[2:]
        self._patches_per_pixel = (grid[0] / sides[0], grid[1] / sides[1])

    def before_step(self, step: int, wanted: frozenset[str]) -> None:
        self._wanted = wanted

    def _newest_share(self) -> Float64[Tensor, ""]:
        """Follow the weights closely until somebody is to be taught."""
        share = super()._newest_share()
        return share if self.provides & self._wanted else torch.ones_like(share)

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        if not self.provides & self._wanted:
            return embeddings
        assert self._model is not None, "start() comes first"
        whole, crops, hidden = self._cut(images[0], batch)
        found = self.look(whole)
        embeddings = replace(embeddings, teacher=self._teacher(whole, only_rows(found), batch))
        if "views" in self._wanted:
            rows = self._model.embed_images(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
            embeddings = replace(embeddings, image_views=(*embeddings.image_views, *rows))
        if "hidden_patches" in self._wanted and self._patches is not None and self._token is not None:
            places = torch.zeros(len(hidden), self._num_patches(whole), dtype=torch.bool, device=hidden.device)
            with self._patches.behind(self._token, places.scatter(1, hidden, value=True)):
                _, guessed = self._model.see(whole)
            told = [_chosen(tokens, hidden) for tokens in (guessed, found[1])]
            embeddings = replace(embeddings, hidden_patches=told[0], taught_patches=told[1])
        return embeddings

    @torch.no_grad()
    def _cut(self, images: Float[Tensor, "n 3 h w"], batch: Batch) -> tuple[Tensor, Tensor, Int64[Tensor, "n p"]]:
        """Return large crops, [n, 3, h, w], small ones, [count, n, 3, size, size], and which patches are hidden."""
        of_crops, patches = NUM_DRAWS * (1 + self.count), self._num_patches(images)
        numbers = uniform(pick(batch.draws[0][:, 0], 2**24), 0, SALT, of_crops + patches)
        first, *others = below_one(numbers[:, :of_crops], torch.float32).split(NUM_DRAWS, dim=1)
        height, width = images.shape[2:]
        whole = random_crops(images, first, scale=self.global_scale, size=(height, width), flip=self.flip)
        small = [
            random_crops(images, draws, scale=self.scale, size=(self.size, self.size), flip=self.flip)
            for draws in others
        ]
        order = numbers[:, of_crops:].argsort(dim=1, stable=True)
        return whole, torch.stack(small), order[:, : max(1, round(self.hidden * patches))]

    def _num_patches(self, images: Float[Tensor, "n 3 h w"]) -> int:
        rows, columns = (
            round(side * share) for side, share in zip(images.shape[2:], self._patches_per_pixel, strict=True)
        )
        return rows * columns

    def _teacher(self, whole: Float[Tensor, "n 3 h w"], rows: Float[Tensor, "n d"], batch: Batch) -> Teacher:
        """Return what the averages say of a crop, which they have embedded already, and of its caption."""
        image = functional.normalize(rows.float(), dim=1)
        seen = self.say(whole[None], batch.tokens[:1], batch.lengths[:1].numpy(), image[None])
        return Teacher(image, seen.text)


def _chosen(tokens: Float[Tensor, "n k c"], places: Int64[Tensor, "n p"]) -> Float32[Tensor, "n p c"]:
    return tokens.float().gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))
