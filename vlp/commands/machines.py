"""`vlp plan`, `vlp bench`, `vlp doctor`: the flags of questions about machines; heavy imports inside the commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlp.commands.adding import add_commands, positive


def add_plan(parser: argparse.ArgumentParser) -> None:
    """plan: say what a recipe needs on some devices before it is launched: memory, time, cores, storage, cost."""
    parser.add_argument("recipe", help="YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="devices of the whole job; default: 1")
    parser.add_argument(
        "--device", metavar="NAME", help="such as A100, L40S, RTX-4090; default: the calibration's, or H100"
    )
    parser.add_argument("--sharded", action="store_true", help="parameters are split over the devices (FSDP2)")
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help="mean length of captions; default: 17, of web captions"
    )
    parser.add_argument(
        "--pairs", type=positive, metavar="N", help="length of the training; default: that of the recipe"
    )
    parser.add_argument("--price", type=positive, metavar="P", help="of a device for an hour")
    parser.add_argument("--share", type=float, metavar="S", help="share of the peak that towers reach; default: 0.35")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="what `vlp bench train` measured on such a machine"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write what `vlp report --plan` compares with the run")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.planning import run_plan

        run_plan(parsed)

    parser.set_defaults(command=command)


def add_bench(parser: argparse.ArgumentParser) -> None:
    """bench: measure on this machine, for vlp plan and for you."""
    add_commands(parser, (_bench_train, _bench_loss))


def _bench_train(parser: argparse.ArgumentParser) -> None:
    """train: take some steps of a recipe: pairs per second, share of the peak (MFU), waits, and where the time goes."""
    parser.add_argument("recipe", help="YAML file, or a name under recipes/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps that are timed; default: 10")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write what `vlp plan --calibration` reads")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.planning import run_bench

        run_bench(parsed)

    parser.set_defaults(command=command)


def _bench_loss(parser: argparse.ArgumentParser) -> None:
    """loss: time the kernels of the losses with several tiles, and let this machine use the fastest from now on."""
    parser.add_argument("--pairs", type=int, default=16_384, metavar="N", help="of the batch; default: %(default)s")
    parser.add_argument("--width", type=int, default=512, metavar="N", help="of the embeddings; default: %(default)s")
    parser.add_argument("--forget", action="store_true", help="use the tiles again that suit most devices")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.timed_kernels import run_bench_loss

        run_bench_loss(parsed)

    parser.set_defaults(command=command)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """doctor: check this machine: devices, processes, versions, hub, disk; and a recipe, if one is named."""
    parser.add_argument("recipe", nargs="?", help="a recipe whose needs are checked too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")

    def command(parsed: argparse.Namespace) -> None:
        from vlp.commands.doctor import examine

        findings = examine(parsed.recipe, parsed.overrides)
        sys.exit(int(any(finding.is_wrong for finding in findings)))

    parser.set_defaults(command=command)
