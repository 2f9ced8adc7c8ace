"""Checkpoints of which each process writes its own part, through torch.distributed.checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, StorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from vlp.ground import dist, files
from vlp.ground.errors import first_line
from vlp.ground.pieces import piece_name, write_pieces
from vlp.run import checkpoint
from vlp.run.checkpoint import TRAINING

Seal = Callable[[Mapping[str, str]], None]


def save(
    run: Path,
    *,
    step: int,
    position: int,
    shards: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    training: Mapping[str, Any],
    keep: int,
    spare: int | None = None,
    group: dist.Group = None,
) -> None:
    """Write a checkpoint of which each process writes its part; all call it, and otherwise it is as `checkpoint.save`.

    Args:
        shards: Weights by `LABEL/NAME`, and what was split off `training`; whole ones on the main process alone.
        own: What this process holds of each.
        training: The rest, on the main process.
        group: In which processes talk.

    Raises:
        Exception: A process could not write; on all of them.
    """
    final = checkpoint.folder_of(run, step)

    def begin() -> Path:
        checkpoint.sync_lines(run)
        return checkpoint.begin(final)

    def seal(sums: Mapping[str, str]) -> None:
        torch.save(dict(training), partial / TRAINING)
        files.sync(partial / TRAINING)
        whole = dict(sorted({**sums, TRAINING: files.sha256_of(partial / TRAINING)}.items()))
        written = checkpoint.complete(partial, final, step, position, whole, checkpoint.FORMAT_IN_PIECES)
        checkpoint.rotate(run, written, keep, spare)

    partial = dist.on_main(begin, group)
    try:
        write(partial, shards, own, seal, group)
    finally:
        if dist.is_main():
            files.remove(partial)


def write(folder: Path, shards: Mapping[str, Tensor], own: Mapping[str, Tensor], seal: Seal, group: dist.Group) -> None:
    """Write every process's own part of tensors; all take part, and all come to the same end.

    Copies of the same part on several processes are written once.

    Args:
        shards: By `PART/NAME`, of which sizes and places are read; whole ones on the main process alone.
        own: What this process holds of them.
        seal: Called by the main process with the checksum of each file, once all are on the disk.

    Raises:
        RuntimeError: A process could not, the same on all of them: its number and its words.
    """
    try:
        dcp.save(dict(shards), storage_writer=PieceWriter(folder, seal), planner=OwnParts(own), process_group=group)
    except CheckpointException as error:  # no Exception, so nobody else would catch it
        number, (failure, _) = min(error.failures.items(), key=lambda found: found[0])
        raise RuntimeError(f"process {number}: {failure}") from None


class OwnParts(DefaultSavePlanner):
    """Plans by sharded tensors as they are, and writes what their parts were when they were copied.

    Args:
        own: This process's parts.
    """

    def __init__(self, own: Mapping[str, Tensor]):
        super().__init__(flatten_state_dict=False)
        self.own = own

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """Return this process's part of a tensor."""
        return self.own[index.fqn]


class PieceWriter(StorageWriter):
    """Writes a file for each part of the state and each process, and makes sure that it is on the disk.

    Args:
        folder: Of the checkpoint in the making; it is there.
        seal: As for `write`.
    """

    def __init__(self, folder: Path, seal: Seal):
        self.folder = folder
        self.seal = seal

    def reset(self, checkpoint_id: object = None) -> None:
        """Do nothing: one writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Do nothing: the folder is there."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Leave the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every process its number."""
        return [replace(plan, storage_data=(number, len(plans))) for number, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's files.

        Raises:
            RuntimeError: They cannot be written. Errors travel to other processes from here, and not each one can.
        """
        number, count = plan.storage_data
        tensors: dict[str, dict[str, Tensor]] = {}
        offsets: dict[str, dict[str, Any]] = {}
        wholes: dict[str, dict[str, Any]] = {}
        written: Future[list[WriteResult]] = Future()
        try:
            for item in plan.items:
                assert item.tensor_data is not None  # nothing else is handed in
                part, _, name = item.index.fqn.partition("/")
                tensors.setdefault(part, {})[name] = planner.resolve_data(item).cpu()  # type: ignore[union-attr]
                offsets.setdefault(part, {})[name] = item.tensor_data.chunk.offsets
                wholes.setdefault(part, {})[name] = item.tensor_data.size
            results = []
            for part in tensors:
                path = self.folder / piece_name(part, number, count)
                write_pieces(path, tensors[part], offsets[part], wholes[part])
                files.sync(path)
                results.append(WriteResult(MetadataIndex(path.name), path.stat().st_size, files.sha256_of(path)))
        except Exception as error:
            raise RuntimeError(first_line(error, kind=True)) from None
        written.set_result(results)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:  # noqa: ARG002 - as torch calls it
        """Seal the checkpoint, on the main process.

        Raises:
            RuntimeError: It cannot be written, or other processes wrote to other disks.
        """
        sums = {result.index.fqn: result.storage_data for each in results for result in each}
        try:
            for name in sums:
                if not (self.folder / name).is_file():
                    raise FileNotFoundError(f"{name} is not there; all processes must see the same run folder")
            self.seal(sums)
        except Exception as error:
            raise RuntimeError(first_line(error, kind=True)) from None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003 - as torch calls it
        """Return False: checkpoints are not known by an id here."""
        return False
