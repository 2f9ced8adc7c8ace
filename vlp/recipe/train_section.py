"""How long a training is, how large its batches, and how exact: the section `train` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from vlp.data.order.batch_sizes import BatchSizes
from vlp.ground.types import RecipeError
from vlp.pairs import Numerics
from vlp.recipe.section import Section
from vlp.towers.float8 import Scales


class FirstBatchesSection(Section):
    """A stage of smaller batches.

    Args:
        batch_size: Pairs in one batch of the whole job.
        steps: How many steps take so many.
    """

    batch_size: int = Field(ge=1)
    steps: int = Field(ge=1)


class TrainSection(Section):
    """How long, how large, how exact.

    Args:
        batch_size: Pairs in one batch of the whole job; every process takes an equal share.
        first_batches: Stages of smaller batches, one after the other, before those of `batch_size`: a batch that grows
            in place of a learning rate that falls (Smith et al. 2018, arXiv:1711.00489), or more steps at the start.
            They are embedded in fewer micro-batches.
        micro_batches: Pieces in which a process embeds its share; changes memory, not gradients. `auto` starts with the
            number that a plan finds, and doubles it, step by step, where memory runs out; with batch norm, which mixes
            the samples of a pass, it is one.
        memory_gb: Memory that a process may use, in GB (1e9 bytes); null for all of its device. On the CPU what a pass
            keeps for its gradients is counted, if micro_batches is `auto`, and nothing else.
        steps: Length of the training in optimizer steps (give one of steps, samples, epochs).
        samples: Length in pairs.
        epochs: Length in passes over the data.
        precision: Number format inside the towers, those of teachers and of evaluations included, and inside the
            terms' own networks; embeddings and losses stay float32.
        float8: Multiply in float8 (Micikevicius et al. 2022, arXiv:2209.05433), forward and backward, in the linear
            layers of the towers' blocks that train and whose sizes are multiples of 16, beside `precision: bfloat16`:
            with one scale for each factor (`tensorwise`, compute capability 8.9 and higher) or for each of its rows
            (`rowwise`, 9.0 and higher); null does not. Needs torchao.
        numerics: How a GPU multiplies embeddings in the objective: `exact` on matrix units in three parts, which keeps
            the digits of float32; `fast` in one, rounded to TF32 (an error of 1e-3 in gradients, where open_clip's
            bfloat16 has 1e-2). Terms without kernels, and the CPU, are exact in any case.
        clip_gradient_norm: Largest norm of the whole gradient; null does not clip.
        max_bad_steps: Consecutive steps with a NaN or Inf gradient that end the run.
        keep_locked: Embed each image once, where the image tower is locked and sees the same of it in every epoch
            (`data.crop: {scale: [1, 1], flip: 0}`, nothing that augments), and keep the embedding in the run folder, 4
            bytes for each of its coordinates: later epochs cost what the text tower costs, and decode no image. The
            same of each caption, where the text tower is locked and captions come again. A folder in place of true is
            shared by all runs of a machine that name it, as far as towers, data and batches are the same.
        compile: Compile the towers with torch.compile: block by block (`true`), where all blocks of a kind share a
            graph and what lies between them stays visible, or each tower as one graph (`towers`), which takes longer to
            compile and fuses a little more.
        shards: Processes that split one copy of the parameters among them, where the launch shards parameters; null for
            all. With the processes of one machine, blocks are gathered inside of it, and only gradients travel between
            machines (HSDP).
        deterministic: Refuse kernels whose results vary from run to run, and on a GPU do without TF32 and without the
            search for the fastest convolution.
        threads: Threads of one process on the CPU; null shares the cores among the processes of a machine.
        timeout: Seconds without a finished step, checkpoint or part of an evaluation after which a process prints the
            stack of each thread and leaves, so that a launcher can start the job again.
    """

    batch_size: int = Field(1024, ge=1)
    first_batches: tuple[FirstBatchesSection, ...] = ()
    micro_batches: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    memory_gb: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    float8: Scales | None = None
    numerics: Numerics = "exact"
    clip_gradient_norm: float | None = Field(1.0, gt=0)
    max_bad_steps: int = Field(20, ge=1)
    keep_locked: bool | str = False
    compile: bool | Literal["towers"] = False
    shards: int | None = Field(None, ge=2)
    deterministic: bool = False
    threads: int | None = Field(None, ge=1)
    timeout: float = Field(1200.0, gt=0)

    @property
    def number_format(self) -> torch.dtype | None:
        """What autocast takes for `precision`; None for float32, which needs none."""
        return None if self.precision == "float32" else getattr(torch, self.precision)

    @property
    def first_sizes(self) -> tuple[tuple[int, int], ...]:
        """Pairs of one step, and how many steps take so many, for each of `first_batches`."""
        return tuple((stage.batch_size, stage.steps) for stage in self.first_batches)

    @property
    def batch_sizes(self) -> BatchSizes:
        """How many pairs each step takes.

        Raises:
            RecipeError: The first batches are larger than the last ones.
        """
        try:
            return BatchSizes(self.batch_size, self.first_sizes)
        except ValueError as error:
            raise RecipeError(f"train.first_batches: {error}: set train.batch_size to the largest") from error
