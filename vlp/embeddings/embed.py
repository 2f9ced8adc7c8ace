"""Write the embeddings of a data set: the input of search, of filters and of probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import decode_image
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import load_card
from vlp.data.texts.captions import Captions
from vlp.embeddings.parts import (
    Format,
    Kind,
    Part,
    Side,
    check_format,
    claim_folder,
    finish_folder,
    has_part,
    write_part,
)
from vlp.evaluators.shared import decode_ahead
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.types import Encoder, RecipeError
from vlp.run.launch import check_same, join_evaluation
from vlp.run.subject import find_subject

SAMPLES_PER_PART = 8192
SAMPLES_PER_BEAT = 256  # of a watchdog, which must not wait for a whole part


def embed(
    model: str,
    data: str,
    folder: Path,
    *,
    sides: Sequence[Side] = ("images", "texts"),
    file_format: Format = "parquet",
    kind: Kind = "float16",
    batch_size: int = 256,
) -> tuple[int, int]:
    """Embed the images and first captions of a data set; started anew, go on where it was stopped.

    Started by torchrun or `accelerate launch`, the processes share the work; the files are the same for any number.

    Args:
        model: As `vlp eval` takes it.
        data: Name or path of a data card.
        folder: Where `part-00000.parquet` and the following go, or for each part arrays of ids and embeddings and a
            list of keys, and `embeddings.json`, which says what they hold.
        sides: What is embedded.
        file_format: `parquet` has a row per sample; the arrays of `npy` are read without any library but NumPy.
        kind: Type of the numbers.
        batch_size: Images or texts per forward.

    Returns:
        How many samples are embedded, those of earlier starts included, and how many had to be left out.

    Raises:
        RecipeError: No such model or card, the folder holds embeddings of something else, or those of a sample are not
            finite.
    """
    device = join_evaluation()
    with dist.together():
        check_format(file_format)
        card = load_card(data)
        samples = SampleSet({card.name: card})
        subject = find_subject(model)
        told = float(checksum(subject.tensors()))
    check_same("the model", f"{told} of {subject.name}")
    of_model = {"model": subject.name, "weights": subject.weights, "checksum": told, "width": subject.embed_dim}
    of_model["configuration"] = subject.configuration
    encoder = subject.encoder(device, batch_size=batch_size)
    return embed_card(encoder, samples, folder, of_model, sides=sides, file_format=file_format, kind=kind)


def embed_card(
    encoder: Encoder,
    samples: SampleSet,
    folder: Path,
    of_model: Mapping[str, Any],
    *,
    captions: Captions | None = None,
    sides: Sequence[Side] = ("images", "texts"),
    file_format: Format = "npy",
    kind: Kind = "float32",
    beat: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Embed the samples of one card with a model that is loaded, as `embed` does; called by all processes.

    Args:
        of_model: What the manifest says of the model.
        captions: Which text is the first caption; None goes by the card.
        beat: Called whenever something is done.

    Returns:
        How many samples are embedded, and how many had to be left out.

    Raises:
        RecipeError: The folder holds embeddings of something else, or those of a sample are not finite.
    """
    (card,) = samples.cards.values()
    manifest = {
        **of_model,
        "data": card.name,
        "fingerprint": card.fingerprint,
        "samples": len(samples),
        "samples_per_part": SAMPLES_PER_PART,
        "type": kind,
        "format": file_format,
        "sides": list(sides),
    }
    dist.on_main(partial(claim_folder, folder, manifest))
    with dist.together():
        _write_parts(encoder, samples, captions or Captions(), folder, sides, file_format, kind, beat)
    return dist.on_main(partial(finish_folder, folder))


def _write_parts(
    encoder: Encoder,
    samples: SampleSet,
    captions: Captions,
    folder: Path,
    sides: Sequence[Side],
    file_format: Format,
    kind: Kind,
    beat: Callable[[], None],
) -> None:
    starts = range(0, len(samples), SAMPLES_PER_PART)
    mine = list(enumerate(starts))[dist.rank() :: dist.world_size()]
    with tqdm(total=len(samples), desc="embedding", unit=" samples", disable=not dist.is_main()) as bar:
        for number, start in mine:
            ids = range(start, min(start + SAMPLES_PER_PART, len(samples)))
            stem = folder / f"part-{number:05d}"
            if not has_part(stem):
                part = embed_part(encoder, samples, captions, ids, sides, beat)
                write_part(stem, part, file_format, kind)
            bar.update(min(len(ids) * dist.world_size(), len(samples) - bar.n))


def embed_part(
    encoder: Encoder,
    samples: SampleSet,
    captions: Captions,
    ids: range,
    sides: Sequence[Side],
    beat: Callable[[], None] = lambda: None,
) -> Part:
    """Embed samples in a row.

    Raises:
        RecipeError: What the model says of one is not finite: whoever reads it later would take it for an embedding.
    """
    part = Part()

    def read(number: int) -> tuple[str, str, Image | None] | BadSampleError:
        try:
            sample = samples[number]
            key = sample.shard.key(sample.place)
            caption = captions.first(sample) if "texts" in sides else ""
            return key, caption, decode_image(sample.read_image()) if "images" in sides else None
        except BadSampleError as error:
            return error

    def sound() -> Iterator[Image]:
        for number, found in zip(ids, decode_ahead(read, ids), strict=True):
            if number % SAMPLES_PER_BEAT == 0:
                beat()
            if isinstance(found, BadSampleError):
                part.faults.append(samples.fault(number, found.reason, found.detail).as_dict())
                continue
            key, caption, image = found
            part.ids.append(number)
            part.keys.append(key)
            part.captions.append(caption)
            if image is not None:
                yield image

    if "images" in sides:
        part.images = encoder.embed_images(sound()).numpy()
    else:
        assert not list(sound())
    if "texts" in sides:
        part.texts = encoder.embed_texts(part.captions).numpy()
    for side, rows in (("image", part.images), ("caption", part.texts)):
        if rows is not None and len(bad := np.flatnonzero(~np.isfinite(rows).all(axis=1))):
            raise RecipeError(
                f"{samples.fault(part.ids[bad[0]], 'bad_row', '').shard}: sample '{part.keys[bad[0]]}': the model's "
                f"embedding of the {side} is not finite: its weights are broken, or numbers overflow in its precision"
            )
    return part
