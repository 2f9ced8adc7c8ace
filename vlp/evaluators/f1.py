"""Macro-averaged F1 of predicted classes, as WILDS scores iWildCam."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlp.evaluators.intervals import linearised
from vlp.ground.types import Metric, PerSample


def macro_f1(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, name: str = "macro_f1"
) -> tuple[Metric, PerSample]:
    """Mean over the classes that have samples of their F1 (Koh et al. 2021, `F1-macro_all`; scikit-learn's `f1_score`).

    The interval is by the derivative of the mean (Takahashi et al. 2022, doi 10.1007/s10489-021-02635-5). What a sample
    adds is its pseudo-value: the F1 plus the number of samples times its derivative.
    """
    present = np.bincount(labels, minlength=num_classes) > 0
    guessed = np.bincount(predictions, minlength=num_classes)
    right = np.bincount(labels[predictions == labels], minlength=num_classes)
    sizes = np.maximum(np.bincount(labels, minlength=num_classes) + guessed, 1)
    scores = np.where(present, 2 * right / sizes, 0.0)
    value = float(scores[present].mean())
    losses = scores / sizes / present.sum()  # of a sample that its class lacks, or that another class has too much
    gains = np.where(present, 2 / sizes, 0.0) / present.sum()
    influences = (predictions == labels) * gains[labels] - losses[labels] - losses[predictions]
    return linearised(name, value, influences), PerSample((value + len(labels) * influences).tolist())
