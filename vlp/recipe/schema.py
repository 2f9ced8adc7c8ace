"""The schema of a recipe: its sections, made from the signatures of the parts they set up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, create_model, model_validator

from vlp.data.arrange import Mixing
from vlp.data.mined_captions import Mining
from vlp.data.order.timetable import Ramp
from vlp.data.pixels.augment import Augment
from vlp.data.pixels.crop import Crop
from vlp.data.pixels.policies import policies
from vlp.data.regions import Regions
from vlp.data.texts.captions import Captions
from vlp.data.texts.documents import Documents
from vlp.data.texts.text_augment import TextAugment
from vlp.data.texts.wrong_captions import WrongCaptions
from vlp.ground.registry import settings_of
from vlp.objectives.base import terms
from vlp.objectives.head import LARGEST_SCALE, HeadViews, Reads
from vlp.objectives.projections.base import projections
from vlp.objectives.schedule import Schedule
from vlp.recipe.layers import DEFAULT_TYPES
from vlp.recipe.scoring_and_saving import CheckpointSection, EvaluationSection, LogSection
from vlp.recipe.section import Section, fields_of, one_of
from vlp.recipe.train_section import TrainSection
from vlp.step.learning_rate import learning_rate_factor
from vlp.step.optimizer import build_optimizer
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import strategies
from vlp.towers.base import caption_decoders, image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.tuning import base as tuning

if TYPE_CHECKING:  # made from signatures at run time, which no type checker follows
    RampSection: TypeAlias = Any
    CropSection: TypeAlias = Any
    NegativeSection: TypeAlias = Any
    CaptionSection: TypeAlias = Any
    DocumentSection: TypeAlias = Any
    RegionSection: TypeAlias = Any
    ViewSection: TypeAlias = Any
    TextViewSection: TypeAlias = Any
    PolicySection: TypeAlias = Any
    AugmentSection: TypeAlias = Any
    OptimizerSection: TypeAlias = Any
    SharedOptimizerSection: TypeAlias = Any
    ScheduleSection: TypeAlias = Any
    TermSection: TypeAlias = Any
    TermEntry: TypeAlias = Any
    HeadEntry: TypeAlias = Any
    HeadSection: TypeAlias = Any
    StrategySection: TypeAlias = Any
    ModelSection: TypeAlias = Any
else:
    RampSection = settings_of(Ramp)
    CropSection = settings_of(Crop)
    NegativeSection = create_model(
        "negatives", __base__=settings_of(WrongCaptions), mining=(settings_of(Mining) | None, None)
    )
    CaptionSection = create_model(
        "captions",
        __base__=settings_of(Captions),
        augment=(settings_of(TextAugment), settings_of(TextAugment)()),
        negatives=(NegativeSection | None, None),
    )
    DocumentSection = settings_of(Documents)
    RegionSection = settings_of(Regions)
    ViewSection = create_model("view", __base__=settings_of(Crop), count=(int, Field(1, ge=1)))
    TextViewSection = create_model("text view", __base__=settings_of(TextAugment), count=(int, Field(1, ge=1)))
    PolicySection = one_of(policies)
    AugmentSection = settings_of(Augment)
    OptimizerSection = one_of(optimizers, **fields_of(settings_of(build_optimizer)))
    SharedOptimizerSection = create_model(
        "optimizer", __base__=settings_of(build_optimizer), type=(str, DEFAULT_TYPES["optimizer"])
    )
    ScheduleSection = settings_of(learning_rate_factor)

    class TermEntry(Section):
        """What an entry of `objective` may say beside the settings of its term.

        Args:
            weight: Multiplies the term; a number, or a schedule over the steps. With one that starts at 0, the term is
                left out before `first_step` where a batch lacks what it needs, so that strategies may wait for it.
            widths: Numbers of first coordinates of the embeddings, made unit again, at which the term is added as well,
                with the same weight (Matryoshka representations, Kusupati et al. 2022).
            head: The label of an entry of `heads`, which stands between the towers and this term; null is none.
        """

        weight: float | settings_of(Schedule) = 1.0
        widths: tuple[int, ...] = ()
        head: str | None = None

    class HeadEntry(Section):
        """What an entry of `heads` may say beside the settings of its type.

        Args:
            reads: What it maps: `embeddings`, or `features`, which the towers know before their own projections.
            views: Whether terms behind it see `all` views of images and texts, or the `further` ones alone, as if there
                were no first one.
            init_scale: Inverse temperature of its own at the start, which trains and stays below 100; null takes the
                model's.
        """

        reads: Reads = "embeddings"
        views: HeadViews = "all"
        init_scale: Annotated[float, Field(ge=1, le=LARGEST_SCALE)] | None = None

    HeadSection = one_of(projections, **fields_of(HeadEntry))
    TermSection = one_of(terms, **fields_of(TermEntry))
    StrategySection = one_of(strategies)
    ModelSection = create_model(
        "model",
        __base__=settings_of(DualEncoder),
        image=(one_of(image_towers), ...),
        text=(one_of(text_towers), ...),
        decoder=(one_of(caption_decoders) | None, None),
        tune=(one_of(tuning.tunings), Field({"type": tuning.DEFAULT}, validate_default=True)),
    )


ADAMW: Any = TypeAdapter(OptimizerSection).validate_python({"type": DEFAULT_TYPES["optimizer"]})


class SourceSection(Section):
    """One source of training pairs.

    Args:
        card: Name or path of a card under `data/`.
        repeat: How often an epoch goes through it, for small sources that should count more.
        generated: Its images come from a model; `data.inflation` does not repeat them.
        share: Its share of the samples, relative to the shares of the other sources: a number, or a ramp over steps.
            All sources have one, or none. Older recipes call it `weight`.
    """

    card: str
    repeat: int = Field(1, ge=1)
    generated: bool = False
    share: float | RampSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Take `weight`, the name of `share` in older recipes and locks."""
        if not isinstance(values, Mapping) or "weight" not in values or "share" in values:
            return values
        return {"share" if name == "weight" else name: value for name, value in values.items()}


class DataSection(Section):
    """What is read, and how a sample is cut, worded and changed.

    Args:
        train: Sources by label; the label is the card's name unless `card` says otherwise.
        inflation: How often an epoch goes through the sources that are not `generated`, where others are; augmentation
            grows weaker with it, as in AdaInf (Wang et al. 2024, arXiv:2403.12448): at 10 `augment.color` and its
            strengths are halved, and the least area of crops rises from 0.08 to 0.2; 1 changes nothing.
        views: Further image views by label: `count` of them, each with the settings of `crop`. All views are resized
            to the model's size. For terms that read them (`vlp describe`).
        text_views: Further text views by label: `count` of them, each drawn and worded anew, with the settings of
            `captions.augment`.
        documents: What is shown of interleaved documents, for cards that hold some (`documents` there) and a model that
            reads them (`model.decoder={type: gated}`); pairs beside them are documents of one image. Null is none.
        max_patches: Where images keep their aspect ratio (`model.image.max_patches`), how many patches those of a batch
            may have: one of these numbers, drawn for each batch, as in SigLIP 2's NaFlex (arXiv:2502.14786: 128, 256,
            576, 784 and 1024). The model's own without any.
        regions: Which part of an image is told apart, for cards with captions of regions and a term that reads them
            (`objective.locca={}`); null reads none.
        decode: Where JPEGs are decoded and cut: on the `host`, or on the CUDA `device` that trains (nvJPEG through
            torchvision), beside which few cores stand. The same samples, boxes and flips, pixels a little different;
            other formats and unusual JPEGs stay with the host.
        policy: A published augmentation policy for the pixels of every image view; null is none.
        spare_first_view: Keep `augment` and `policy` away from the first image view, which is then only cropped.
        mixing: What comes from one source in a row, where sources have shares: a sample, a batch of the whole job, or
            as many batches as fill a typical shard.
        shuffle_shards: Shards whose samples are shuffled together, so that the others need not be at hand; null
            shuffles all samples together.
        groups: Folder that says which group each sample of the one source belongs to (`vlp stages` writes it): every
            batch then comes from one group, and groups smaller than a batch never come (Zhang et al. 2024,
            arXiv:2402.11816).
        workers: Processes that decode, for each process that trains; 0 decodes in the training process. `auto` takes
            the cores that are left beside a GPU, at most 8, which feed 8,900 photographs per second; on the CPU, a
            quarter of the cores. The order of samples does not depend on it.
        worker_timeout: Seconds without a finished sample after which such a process counts as dead and is replaced.
        bad_sample_budget: Share of samples that may be unreadable before the run stops.
    """

    train: dict[str, SourceSection] = Field(min_length=1)
    inflation: int = Field(1, ge=1)
    crop: CropSection = CropSection()
    captions: CaptionSection = CaptionSection()
    views: dict[str, ViewSection] = {}
    text_views: dict[str, TextViewSection] = {}
    documents: DocumentSection | None = None
    max_patches: tuple[int, ...] = ()
    regions: RegionSection | None = None
    decode: Literal["host", "device"] = "host"
    policy: PolicySection | None = None
    spare_first_view: bool = False
    augment: AugmentSection = AugmentSection()
    mixing: Mixing = "sample"
    shuffle_shards: int | None = Field(None, ge=1)
    groups: str | None = None
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    worker_timeout: float = Field(300.0, gt=0)
    bad_sample_budget: float = Field(0.01, ge=0, le=1)


class Recipe(Section):
    """Everything that decides what a run computes.

    Args:
        name: Name of the run; its folder is `<runs>/<name>`.
        runs: Folder of all runs.
        seed: Source of all randomness.
        objective: The terms of the loss by label; `type` names the term where the label does not, and `weight` (1 when
            absent) multiplies it; `widths` adds it for the first coordinates of the embeddings as well.
        heads: Projection heads by label, for terms that name one (`objective.LABEL.head`); they train with the towers
            and are no part of the model: `vlp eval RUN@LABEL` scores it behind one.
        strategies: What changes views, batches, teachers or stages, by label; `type` names it where the label does not.
    """

    name: str = Field(min_length=1, pattern=r"^[\w-][\w.-]*$")
    runs: str = "runs"
    seed: int = 0
    data: DataSection
    model: ModelSection
    objective: dict[str, TermSection] = Field(min_length=1)
    heads: dict[str, HeadSection] = {}
    strategies: dict[str, StrategySection] = {}
    optimizer: OptimizerSection = ADAMW
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name


def settings(section: BaseModel, *without: str) -> dict[str, Any]:
    """Return a section's values as keyword arguments."""
    return {name: getattr(section, name) for name in type(section).model_fields if name not in without}
