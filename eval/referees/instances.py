"""Run by the Python that has CLIP_benchmark: its score of instances of two images and two captions.

python instances.py ROOT SPLIT --model local-dir:FOLDER --output FILE

Its own Winoground comes from the hub; here two samples that follow each other in shards, each with its own caption
first and the other's second, are an instance.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from clip_benchmark.datasets.builder import build_wds_dataset
from clip_benchmark.metrics.image_caption_selection import evaluate
from clip_benchmark.models import load_clip


def instances(samples):
    """Yield batches of one instance: images 1 x 2 x C x H x W, and its two captions."""
    samples = iter(samples)
    while pair := list(islice(samples, 2)):
        images, captions = zip(*pair, strict=True)
        yield torch.stack(images)[None], [[own[0] for own in captions]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("split")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    model, transform, tokenizer = load_clip("open_clip", asked.model, "", cache_dir=None, device="cpu")
    model.eval()
    dataset = build_wds_dataset("instances", transform, split=asked.split, data_dir=asked.root)
    metrics = evaluate(model, instances(dataset), tokenizer, device="cpu", amp=False)
    asked.output.write_text(json.dumps({"metrics": metrics}), encoding="utf-8")


if __name__ == "__main__":
    main()
