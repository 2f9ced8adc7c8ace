"""A linear classifier on frozen image features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vlp.evaluators.base import Seed, check_classes, evaluators
from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.logistic import LabelledRows, LinearClassifier
from vlp.evaluators.probes.penalties import PenaltySearch, fit_exactly, hold_out, search_penalty
from vlp.evaluators.probes.train_split import Features, SplitFeatures, open_split, read_features
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.zero_shot import rank_classes, summarise
from vlp.ground import dist
from vlp.ground.types import Evaluation, RecipeError


@evaluators.register("linear_probe")
class LinearProbe:
    """Fit logistic regression to the features of the training split and score it on the split of the task.

    CLIP's protocol (Radford et al. 2021, A.3, arXiv:2103.00020): the L2 penalty is searched between 1e-6 and 1e6 on a
    validation split, or on a part of the training split where the set has none; then all of both is fitted. The fit is
    the optimum, that of scikit-learn's `LogisticRegression(C=1 / l2)`, and its distance stands in the record.

    Args:
        train_split: Folder of the shards to learn from.
        validation_split: Folder of the shards to choose the penalty on; they are learned from in the end.
        held_out: Share of each class of the training split to choose the penalty on, without a validation split.
        features: `projected` embeddings of unit norm, or those of the `backbone`, before the projection into the shared
            space, as the tower gives them.
        l2: The penalty, to use one without a search.
        seed: Which samples are held out.
    """

    texts: tuple[str, ...] = ()

    def __init__(
        self,
        data: EvaluationSet,
        *,
        train_split: str = "train",
        validation_split: str | None = None,
        held_out: float = 0.2,
        features: Features = "projected",
        l2: float | None = None,
        seed: Seed = 0,
    ):
        check_classes(data)
        if l2 is not None and not l2 > 0:
            raise RecipeError(f"settings.l2 is {l2}; without a penalty there may be no optimum, so give a positive one")
        if not 0 < held_out < 1:
            raise RecipeError(f"settings.held_out is {held_out}; it is a share between 0 and 1")
        if validation_split == train_split:
            raise RecipeError(f"settings.validation_split is the training split, '{train_split}'")
        self.data, self.train_split, self.validation_split = data, train_split, validation_split
        self.held_out, self.features, self.l2, self.seed = held_out, features, l2, seed

    def run(self, encoder: SharedEncoder) -> Evaluation:
        """Embed the splits, fit on the main process, and score."""
        opened = [open_split(encoder, self.data, self.train_split, "train_split")]
        if self.validation_split is not None:
            opened.append(open_split(encoder, self.data, self.validation_split, "validation_split"))
        parts = [read_features(encoder, split, self.features) for split in opened]
        test = read_features(encoder, self.data, self.features)
        probe = dist.on_main(lambda: self._fit(parts).on("cpu"))
        classifier = probe.on(test.features.device).classifier
        features, classes = classifier.rows(test.features)
        found = summarise(rank_classes(features, classes, test.labels), test.labels, self.data.class_names)
        return Evaluation(
            found.metrics, {**found.details, **probe.told(), "width": len(classifier.weights)}, found.samples
        )

    def _fit(self, parts: list[SplitFeatures]) -> Probe:
        features, labels = torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts])
        everything = LabelledRows(features, labels, len(self.data.class_names))
        told = [part.told() for part in parts]
        if self.l2 is not None:
            return Probe(fit_exactly(everything, self.l2), self.l2, None, told)
        if self.validation_split is None:
            away = torch.from_numpy(hold_out(labels.cpu().numpy(), self.held_out, self.seed)).to(labels.device)
        else:
            away = torch.arange(len(labels), device=labels.device) >= len(parts[0].labels)
        if not away.any():
            raise RecipeError(
                f"settings.held_out: {self.held_out} of the largest class of '{self.train_split}' is less than one "
                "sample; hold out more, or set l2"
            )
        learn, choose = (LabelledRows(features[rows], labels[rows], everything.num_classes) for rows in (~away, away))
        search = search_penalty(learn, choose)
        return Probe(fit_exactly(everything, search.penalty, search.start), search.penalty, search, told)


@dataclass(frozen=True)
class Probe:
    """A fitted probe and how it came about."""

    classifier: LinearClassifier
    l2: float
    search: PenaltySearch | None
    learned_from: list[dict[str, object]]

    def on(self, device: torch.device | str) -> Probe:
        """Return the same on a device; no other process has the main one's."""
        weights, intercepts = (part.to(device) for part in (self.classifier.weights, self.classifier.intercepts))
        classifier = replace(self.classifier, weights=weights, intercepts=intercepts, curvature=None)
        search = None if self.search is None else replace(self.search, start=classifier)
        return replace(self, classifier=classifier, search=search)

    def told(self) -> dict[str, object]:
        """Return what a record says of it."""
        return {
            "l2": self.l2,
            "search": None if self.search is None else self.search.told(),
            "objective": self.classifier.objective,
            "gap": self.classifier.gap,
            "evaluations": self.classifier.evaluations,
            "learned_from": self.learned_from,
        }
