"""What stands in a dated report can be run again."""

from __future__ import annotations

import shlex

from benchmarks.dated_report import command_line


def test_a_command_is_told_as_a_shell_reads_it():
    arguments = ["--ways", "clean", "PGD contrast", "--to", "it's here"]
    told = command_line("robust_proof", arguments)
    assert shlex.split(told) == ["python", "-m", "benchmarks.robust_proof", *arguments]
    assert command_line("bench_step", ["--quick"]) == "python -m benchmarks.bench_step --quick"
