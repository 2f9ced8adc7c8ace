"""What open_clip's own training loader costs: whole epochs of ready batches, as JSON on the last line.

    python -m benchmarks.peer_open_clip_loader '{"shards": [...], "samples": 1024, "workers": 2, ...}'

Runs in the peer's environment, so it imports nothing of `vlp`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace

import open_clip
import torch
from open_clip.transform import AugmentationCfg, image_transform
from open_clip_train.data import get_wds_dataset

from benchmarks.measure import tree_seconds


def main() -> None:
    """Run one epoch to warm up and one that is measured; both are whole passes, so that nothing is left in a buffer."""
    order = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    samples = order["samples"] * order["passes"]
    args = Namespace(
        train_data="::".join(order["shards"]),
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=order["batch_size"],
        workers=order["workers"],
        world_size=1,
    )
    transform = image_transform(order["size"], is_train=True, aug_cfg=AugmentationCfg(scale=tuple(order["scale"])))
    info = get_wds_dataset(args, transform, is_train=True, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    for epoch in range(2):
        info.set_epoch(epoch)
        cpu, wall = tree_seconds(os.getpid()), time.perf_counter()
        seen = sum(len(images) for images, _ in info.dataloader)
    assert seen == samples, f"{seen} samples of {samples}"
    spent = {"cpu": tree_seconds(os.getpid()) - cpu, "wall": time.perf_counter() - wall}
    print(json.dumps({name: seconds / samples for name, seconds in spent.items()}))


if __name__ == "__main__":
    main()
