"""Wrong captions that a training mines with the model as it has become, every so many steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vlp.data.mined_captions import ABOUT, check_one_card, read_mined
from vlp.data.texts.captions import Captions
from vlp.embeddings import mine, parts
from vlp.embeddings.embed import embed_card
from vlp.ground import dist, files
from vlp.ground.bits import checksum
from vlp.ground.types import RecipeError
from vlp.recipe.model import build_model, without_weights
from vlp.recipe.schema import settings
from vlp.run import checkpoint
from vlp.run.assemble import Run
from vlp.run.state import weights_to_evaluate
from vlp.run.watchdog import Watchdog, WatchedEncoder
from vlp.towers.encoder import TowerEncoder

MINED = "mined"
KEY = "data.captions.negatives.mining"


class MiningRounds:
    """The rounds of a run, each of which draws from what was mined at its first step; none where nothing asks for it.

    A round's folder, `mined/step_00000000` of the run, follows from the weights of that step, and the negatives of a
    sample from the folder, the seed and the epoch. A run that goes on within a round reads its folder.

    Args:
        run: Whose model, stream and folder.
    """

    def __init__(self, run: Run):
        self.run = run
        captions = run.recipe.data.captions
        self.mining = None if captions.negatives is None else captions.negatives.mining
        self.captions = Captions(**settings(captions, "augment", "negatives"))
        self.at: int | None = None  # first step of the round that is on

    def is_due(self, step: int) -> bool:
        """Whether a round begins at a step, or the one it lies in has to be taken up."""
        return self.mining is not None and self._first_of(step) != self.at

    def begin(self, step: int, watchdog: Watchdog, say: Callable[[str], None]) -> None:
        """Let the stream draw from what is mined at the beginning of the round that a step lies in.

        Raises:
            RecipeError: That was in an earlier start, and is not there.
        """
        first, samples = self._first_of(step), self.run.stream.samples
        folder = self.run.recipe.folder / MINED / f"step_{first:08d}"
        if step == first:
            self._mine(folder, watchdog)
        with dist.together():
            if not (folder / ABOUT).is_file():
                raise RecipeError(
                    f"{folder}: is not there, and with it the captions that step {step} draws from: bring it back, or "
                    f"move the checkpoints after step {first} away; where the run mined otherwise before, or not at "
                    f"all, set {KEY}.every to a divisor of {step}, so that a round begins there"
                )
            mined = read_mined(folder, samples, self.run.recipe.data.captions.negatives.count, KEY)
        self.run.stream.take_mined(mined)
        self.at = first
        dist.on_main(self._forget)
        say(f"step {first}: {mine.summary(mined.about)}")

    def _first_of(self, step: int) -> int:
        every: int = self.mining.every if self.mining is not None else 1
        return step // every * every

    def _mine(self, folder: Path, watchdog: Watchdog) -> None:
        recipe, samples, mining = self.run.recipe, self.run.stream.samples, self.mining
        assert mining is not None, "is_due asks"
        model, weights = build_model(without_weights(recipe.model)), weights_to_evaluate(self.run)
        model.load_state_dict(weights)
        limits, embeddings = settings(mining, "every"), folder.with_name(f"{folder.name}.embeddings")
        told = {"checksum": float(checksum(weights.values())), "fingerprint": check_one_card(samples, KEY)}
        dist.on_main(partial(_clear, folder, mine.MANIFEST, told | limits))
        dist.on_main(partial(_clear, embeddings, parts.MANIFEST, told))
        if not dist.on_main((folder / ABOUT).is_file):
            encoder = TowerEncoder(
                model.to(self.run.device), device=self.run.device, autocast=recipe.train.number_format
            )
            of_model = {"model": recipe.name, "weights": recipe.evaluation.weights, "width": model.embed_dim}
            watched = WatchedEncoder(encoder, watchdog)
            named = of_model | told
            embed_card(watched, samples, embeddings, named, captions=self.captions, beat=watchdog.beat)
            mine.mine_card(
                embeddings,
                samples,
                folder,
                **limits,
                device=self.run.device,
                captions=self.captions,
                beat=watchdog.beat,
            )
        dist.on_main(partial(files.remove, embeddings))

    def _forget(self) -> None:
        """Remove the rounds that no checkpoint lies in."""
        steps = [int(path.name.rpartition("_")[2]) for path in checkpoint.candidates(self.run.recipe.folder)]
        assert self.at is not None, "a round has begun"
        oldest = self._first_of(min([*steps, self.at]))
        for folder in (self.run.recipe.folder / MINED).glob("step_*"):
            number = folder.name.removeprefix("step_").partition(".")[0]
            if number.isdigit() and int(number) < oldest:
                files.remove(folder)


def _clear(folder: Path, manifest: str, told: Mapping[str, Any]) -> None:
    """Remove what follows from anything else: of a run that was begun anew, or went another way since."""
    if not folder.exists():
        return
    try:
        before = json.loads((folder / manifest).read_text(encoding="utf-8"))
        is_same = all(before[name] == value for name, value in told.items())
    except (OSError, ValueError, KeyError, TypeError):
        is_same = False
    if not is_same:
        files.remove(folder)
