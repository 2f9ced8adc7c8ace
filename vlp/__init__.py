"""Vision-language pretraining: CLIP-style dual encoders, from shards to an evaluated, exported model."""

__version__ = "0.1.0"
