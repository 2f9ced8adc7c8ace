"""A card of training whose samples have captions of regions, as an evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.data import Captions, SampleSet
from vlp.data.faults import BadSampleError
from vlp.data.regions import read_regions
from vlp.data.samples import Sample
from vlp.data.shards.cards import Card, load_card
from vlp.data.shards.remote import is_remote
from vlp.data.shards.shard import Shard
from vlp.evaluators.labelled import EvaluationSample
from vlp.ground.types import RecipeError

ONLY_SPLIT = "test"  # what tasks name where they name none


@dataclass(frozen=True)
class RegionCard:
    """The samples that a card keeps, each with its regions, in the place of a folder in CLIP_benchmark's layout.

    Args:
        told: The card.
        regions: Where it says that regions are.
    """

    told: Card
    regions: str

    @classmethod
    def load(cls, path: str) -> RegionCard:
        """Read a card.

        Raises:
            RecipeError: There is none, or it tells of no regions.
        """
        told = load_card(str(Path(path).expanduser()))
        if told.regions is None:
            raise RecipeError(f"{told.file}: regions: an evaluation set needs them: name a key, such as json.regions")
        return cls(told, told.regions)

    @property
    def root(self) -> str:
        """The folder of the card, absolute."""
        return str(self.told.folder)

    @property
    def name(self) -> str:
        """What the card is called."""
        return self.told.name

    def locate(self, _name: str) -> str:
        """Return the path of the card, whatever is looked for: it has no further files."""
        return str(self.told.file)

    def kind(self) -> str:
        """Return what the set is."""
        return "regions"

    def shards(self, split: str) -> list[str]:
        """Return the shards of the card.

        Raises:
            RecipeError: One is missing, or a split is asked for.
        """
        if split != ONLY_SPLIT:
            raise RecipeError(f"data.split is '{split}': {self.told.file} is a card, which has none; name another card")
        return self.told.locations()

    def files(self) -> list[Path]:
        """Return the shards of the card that lie on a disk."""
        return [Path(location) for location in self.told.locations() if not is_remote(location)]

    def card(self, _shards: list[str]) -> Card:
        """Return the card."""
        return self.told

    def lists(self) -> dict[str, bytes]:
        """Return the list of the samples that are kept, by its name, where there is one."""
        kept = self.told.keep
        return {} if kept is None else {kept: (self.told.folder / kept).read_bytes()}

    def read(self, _shards: Sequence[Shard], members: Sequence[str]) -> list[EvaluationSample]:
        """Return all samples that the card keeps, those without a region as well.

        Raises:
            RecipeError: A sample has no image, its regions are none, or something else than regions is asked for.
        """
        if members:
            raise RecipeError(f"{self.told.file}: a card has no .{members[0]} beside its images: leave out data.groups")
        samples = SampleSet({self.told.name: self.told})
        return [self._read(samples, number) for number in range(len(samples))]

    def _read(self, samples: SampleSet, number: int) -> EvaluationSample:
        try:
            sample: Sample = samples[number]
            key = sample.shard.key(sample.place)
            image = sample.members[sample.image_member()]
            regions = read_regions(sample, self.regions, Captions())
        except BadSampleError as error:
            fault = samples.fault(number, error.reason, str(error))
            raise RecipeError(f"{self.told.file}: sample '{fault.key}' of {fault.shard}: {error}") from error
        return EvaluationSample(key, sample.shard, image, {}, tuple(regions))
