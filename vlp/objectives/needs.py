"""What terms may need of a batch beyond two embeddings, in words, and who brings it."""

from __future__ import annotations

NEEDS = {
    "ids": "sample ids",
    "caption_ids": "caption ids",
    "reference": "reference features",
    "teacher": "a teacher's embeddings",
    "negatives": "wrong captions",
    "replayed": "to know which samples are replayed",
    "features": "what the towers know before their projections",
    "caption_losses": "what a decoder says of captions",
    "region_losses": "what a decoder says of regions",
    "maps": "maps of the image tower",
    "taught_maps": "maps of averaged weights",
    "hidden_patches": "patches that are hidden from the image tower",
    "pixel_changes": "an auto-encoder in front of the image tower",
    "tokens": "the tokens of captions",
}
PROVIDERS = {
    "reference": "lock the image tower (model.freeze=[visual]) or add a teacher (strategies.ema_teacher={})",
    "teacher": "add one (strategies.dual_teacher={} for averaged weights, strategies.teacher={models: [NAME]} for "
    "other models)",
    "replayed": "say which (strategies.replay={sources: [LABEL]})",
    "caption_losses": "give the model a decoder (model.decoder={type: transformer} with model.image.pooler_queries=257 "
    "and model.text.pool=cls, or the name of a CoCa of open_clip in all three)",
    "region_losses": "read some (data.regions={}) with a decoder that knows boxes (model.decoder={type: locating})",
    "taught_maps": "add strategies.dense_teacher={}",
    "hidden_patches": "add strategies.local_to_global={}",
    "pixel_changes": "put one there (model.tune={type: purifier})",
    "negatives": "add some (strategies.shuffled_captions={}, or strategies.hard_negatives={} with "
    "data.captions.negatives={}; mined ones with data.captions.negatives={mining: {every: 2000}})",
}
