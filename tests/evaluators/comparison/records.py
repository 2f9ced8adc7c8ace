"""Folders of records made by hand, as `vlp eval` would write them."""

from __future__ import annotations

import numpy as np

from vlp.evaluators.intervals import mean
from vlp.evaluators.per_sample import GROUP, KEY, MetricSamples, write_samples
from vlp.evaluators.record import write_record


def write_scores(folder, task, values, *, groups=None, keys=None, samples=True, metric="acc1", **changes):
    """Write a record whose main metric is the mean of values, and their table."""
    values = np.asarray(values, dtype=float)
    keys = np.array([f"s{i}" for i in range(len(values))] if keys is None else keys)
    value = MetricSamples(keys, values, None if groups is None else np.asarray(groups)).metric
    measured = mean(metric, values)
    spread = {"low": measured.low, "high": measured.high}
    record = {
        "task": task,
        "version": 1,
        "evaluator": "zero_shot",
        "main_metric": metric,
        "settings": {},
        "model": folder.name,
        "metrics": {metric: {"value": value, "count": len(values), **spread}},
        "data_sha256": "same",
        "prompts_sha256": "same",
        "pixels": {"as": "training", "images_that_differ": 0},
        "versions": {"torch": "2.8"},
        "commit": "abc",
    }
    write_record(folder / f"{task}.json", record | changes)
    columns = {KEY: keys, metric: values}
    if groups is not None:
        columns[metric + GROUP] = np.asarray(groups, dtype=float)
    if samples:
        write_samples(folder / task, columns)
    return folder
