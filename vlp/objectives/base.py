"""Term: one formula on a batch of pairs. Objective: a weighted sum of terms that share their tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.ground import dist
from vlp.ground.registry import Registry
from vlp.ground.types import RecipeError
from vlp.ground.undo import Undo
from vlp.objectives.ask import Standpoint, ask
from vlp.objectives.head import Head, HeadPairs, TrainedHead, find_head
from vlp.objectives.needs import NEEDS
from vlp.pairs import Numerics, Pairs, PrefixPairs, Request, Stats, TileMemory

Report = dict[str, Tensor]


class Term(nn.Module, ABC):
    """A formula on vectors; the engine brings the vectors.

    Keyword-only arguments of a subclass are its settings in a recipe.
    """

    requests: Mapping[str, Sequence[Request]] = {}
    """What the engine computes for this term, by block: `image_text`, `image_image`, `text1_text` and the like."""

    needs: frozenset[str] = frozenset()
    """What a batch must carry beyond two embeddings: ids, caption_ids, reference, teacher, negatives,
    caption_losses, region_losses, maps, taught_maps, hidden_patches, pixel_changes, tokens."""

    min_pairs: int = 1
    """Fewest pairs for which the formula is defined."""

    gradient_is_slope: bool = True
    """Whether the gradient is the derivative of the value; not where weights in the formula carry none."""

    discriminates: bool = True
    """Whether it compares images with the texts of other pairs, which retrieval needs."""

    reads_views: bool = False
    """Whether it looks at further views of images and texts; without such a term they cost time for nothing."""

    compares_views: bool = False
    """Whether it compares two views of each image: refused without a second one, and with a locked image tower."""

    fixed_scale_advised: bool = False
    """Whether a learnable scale only ever grows under this term, up to its clamp."""

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        """Learn how wide the teacher's embeddings are, before `create`; not called where the term needs no teacher.

        Terms that compare similarities need not know; a ValueError refuses a width that the term cannot compare.
        """

    def fit_maps(self, channels: int, /) -> None:
        """Learn how many channels maps have, before `create`; not called where the term needs no maps."""

    def fit_vocabulary(self, num_tokens: int, /) -> None:
        """Learn how many tokens there are, before `create`; not called where the term needs no tokens."""

    def create(self, embed_dim: int, /) -> None:
        """Make the term's own parameters, where it has some; called once, before the first batch."""

    def expect(self, num_samples: int, /) -> None:
        """Make room for so many training samples; refuse, with a ValueError, settings that they cannot satisfy."""

    def lent(self) -> Mapping[str, nn.Parameter]:
        """Return parameters that strategies put to work and that train with the term, by name; after `create`."""
        return {}

    def offered_heads(self) -> Mapping[str, TrainedHead]:
        """Return heads of its own that can be evaluated, by name."""
        return {}

    def gauges(self) -> Mapping[str, float]:
        """Return numbers about the term's state, the same on every process; asked for where the log waits anyway."""
        return {}

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Return the requests for a batch; a term that reads all views of a batch overrides this."""
        return self.requests

    @abstractmethod
    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        """Return this process's share of the loss: `stats[block, request]` is one number per local sample."""


terms: Registry[Term] = Registry("term", "vlp.objectives")


class Objective(nn.Module):
    """A weighted sum of terms; terms that read the same similarity matrix share its products.

    A term of weight 0 is computed and reported all the same: a gauge.

    Args:
        terms: By label: a term, and its weight as a function of the step.
        widths: By label: the term reads so many first coordinates of the embeddings, made unit again (Matryoshka
            representations, Kusupati et al. 2022, eq. 1); all of them where nothing is said.
        numerics: As of `pair_stats`.
        heads: By name: what terms may stand behind.
        behind: By label: the name of the head that the term stands behind; the towers themselves where nothing is said.
        begins: By label: before this step the term is left out where a batch lacks what it needs.

    Raises:
        ValueError: There is no term.
    """

    def __init__(
        self,
        terms: Mapping[str, tuple[Term, Callable[[int], float]]],
        widths: Mapping[str, int] = MappingProxyType({}),
        *,
        numerics: Numerics = "exact",
        heads: Mapping[str, Head] = MappingProxyType({}),
        behind: Mapping[str, str] = MappingProxyType({}),
        begins: Mapping[str, int] = MappingProxyType({}),
    ):
        super().__init__()
        if not terms:
            raise ValueError("an objective needs at least one term")
        self.widths = dict(widths)
        self.behind = dict(behind)
        self._begins = dict(begins)
        self._heads = dict(heads)
        self.heads = nn.ModuleDict(self._heads)
        self.numerics = numerics
        self._terms = {label: term for label, (term, _) in terms.items()}
        self.terms = nn.ModuleDict(self._terms)
        self._weights = {label: weight for label, (_, weight) in terms.items()}
        self._memory = TileMemory()
        self._local_sizes: set[int] = set()
        self._undo: Undo | None = None

    def create(
        self,
        embed_dim: int,
        teacher_dim: int | None = None,
        features: tuple[int, int] | None = None,
        map_channels: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        """Make the heads' and the terms' own parameters for embeddings of this width.

        Args:
            teacher_dim: Width of the teacher's embeddings; None where it is the same.
            features: Widths of what the towers know before their projections, of images and texts, where a head asks.
            map_channels: Of the maps of the image tower, where a term asks.
            vocabulary: How many tokens there are, where a term asks.

        Raises:
            RecipeError: A term is to read as many coordinates as there are, or more, or none, or cannot compare them
                with the teacher's, or a head cannot take the widths.
        """
        for name, head in self._heads.items():
            try:
                head.create(embed_dim, features)
            except ValueError as error:
                raise RecipeError(f"heads.{name}: {error}") from error
        for label, term in self._terms.items():
            width = self._width_of(label, embed_dim)
            if label in self.widths and not 0 < width < embed_dim:
                name = label.partition("@")[0]
                raise RecipeError(f"objective.{name}.widths: {width} is not within the {embed_dim} of model.embed_dim")
            if "teacher" in term.needs:
                is_cut = teacher_dim in (None, embed_dim) and label not in self.behind  # like the embeddings
                try:
                    term.fit_teacher(width, width if is_cut else teacher_dim or embed_dim)
                except ValueError as error:
                    raise RecipeError(f"objective.{label}: {error}") from error
            if map_channels is not None:
                term.fit_maps(map_channels)
            if vocabulary is not None:
                term.fit_vocabulary(vocabulary)
            term.create(width)

    def _width_of(self, label: str, embed_dim: int) -> int:
        if label in self.behind:
            return self._heads[self.behind[label]].width
        return self.widths.get(label, embed_dim)

    def expect(self, num_samples: int) -> None:
        """Let every term look at the number of training samples.

        Raises:
            RecipeError: A term's settings cannot be satisfied.
        """
        for label, term in self._terms.items():
            try:
                term.expect(num_samples)
            except ValueError as error:
                raise RecipeError(f"objective.{label}: {error}") from error

    def foresee(self, local_sizes: Iterable[int]) -> None:
        """Take batches of several sizes, each of which all processes see in the same steps.

        Args:
            local_sizes: Pairs of one process.
        """
        self._local_sizes |= set(local_sizes)

    def gauges(self) -> dict[str, float]:
        """Return `label/name` numbers about the terms' states."""
        return {f"{label}/{name}": x for label, term in self._terms.items() for name, x in term.gauges().items()}

    @property
    def needs(self) -> frozenset[str]:
        """What a batch must carry for all terms and heads."""
        of_heads = {"features"} if any(head.reads == "features" for head in self._heads.values()) else set()
        return frozenset(of_heads).union(*(term.needs for term in self._terms.values()))

    def wanted(self, step: int) -> frozenset[str]:
        """Return what terms that have begun need of a batch, and `views` where one looks at further ones."""
        begun = [term for label, term in self._terms.items() if self._has_begun(label, step)]
        return frozenset({"views"} if any(term.reads_views for term in begun) else ()).union(*(t.needs for t in begun))

    def lent(self) -> dict[str, nn.Parameter]:
        """Return parameters of terms that work where strategies let the towers look, by name."""
        return {name: value for term in self._terms.values() for name, value in term.lent().items()}

    @property
    def reads_views(self) -> bool:
        """Whether something looks at further views of images and texts."""
        return any(term.reads_views or term.compares_views for term in self._terms.values()) or any(
            head.views == "further" for head in self._heads.values()
        )

    def forward(self, pairs: Pairs, step: int) -> tuple[Float[Tensor, ""], Report]:
        """Return this process's share of the loss, and the value of every term over all processes.

        A NaN or an Inf on any process makes loss, values and gradients NaN on all of them, and leaves no trace in what
        terms remember. Where the step is skipped for another reason, `settle` says so.

        Raises:
            ValueError: Too few pairs for a term, no reference where one is needed, or processes with unequal batches.
        """
        self._check(pairs, step)
        self._undo = Undo(self)
        # times NaN, so that gradients are NaN too
        spoilt = torch.where(pairs.finite, 1.0, torch.nan).to(pairs.image.dtype)
        shares = {label: share * spoilt for label, share in self._shares(pairs, step).items()}
        self._undo.unless(pairs.finite)
        loss = self._weighted_sum(shares, step)
        values = dist.all_reduce_sum(torch.stack([share.detach() for share in shares.values()]), pairs.group)
        return loss, dict(zip(shares, values.unbind(), strict=True))

    def mixed(self, readings: Mapping[str, tuple[float, Pairs]], step: int) -> tuple[Float[Tensor, ""], Report]:
        """Return the weighted sum of the losses of several versions of a batch, and the values of all.

        What terms remember, they remember of the first version, which is looked at last. The values of others have the
        label of their version before that of the term.
        """
        total: Tensor | None = None
        report: Report = {}
        for number, (label, (weight, pairs)) in reversed([*enumerate(readings.items())]):
            loss, values = self(pairs, step)
            loss = loss if weight == 1 else weight * loss
            total = loss if total is None else total + loss
            report |= {"/".join(filter(None, (label, name))): value for name, value in values.items()}
            if number > 0:
                self.settle(torch.zeros_like(pairs.finite))
        assert total is not None, "somebody reads something"
        return total, report

    def head(self, name: str) -> TrainedHead:
        """Return a head by its label, or one that a term offers, by the term's label and perhaps `.NUMBER`.

        Raises:
            RecipeError: There is none.
        """
        return find_head(name, self._heads, self._terms)

    def settle(self, taken: Bool[Tensor, ""]) -> None:
        """Let terms forget the last batch where its step was not taken, the same on every process; or the part of it
        that they have seen, where something broke off."""
        if self._undo is not None:
            self._undo.unless(taken)
            self._undo = None  # what is settled stays

    def _shares(self, pairs: Pairs, step: int) -> dict[str, Float[Tensor, ""]]:
        """Let all terms read one walk of each matrix, and several widths of it together."""
        read = {k: each for k, each in self._terms.items() if self._has_begun(k, step) or each.needs <= pairs.carries}
        seen = self._seen(pairs, dict.fromkeys(map(self._place_of, read)))
        asking: dict[Standpoint, list[Term]] = {place: [] for place in seen}
        for label, term in read.items():
            asking[self._place_of(label)].append(term)
        stats = ask(seen, asking, pairs.group, memory=self._memory, numerics=self.numerics)
        return {k: term(seen[self._place_of(k)], stats[self._place_of(k)]) for k, term in read.items()}

    def _seen(self, pairs: Pairs, places: Iterable[Standpoint]) -> dict[Standpoint, Pairs]:
        """Return what terms see behind each head, at each width."""
        names = dict.fromkeys(name for name, _ in places)
        behind = {name: pairs if name is None else HeadPairs(pairs, self._heads[name]) for name in names}
        return {
            (name, width): behind[name] if width is None else PrefixPairs(behind[name], width) for name, width in places
        }

    def _weighted_sum(self, shares: Mapping[str, Float[Tensor, ""]], step: int) -> Float[Tensor, ""]:
        """Add what terms say, each with its weight.

        A term of weight 0 gives its own parameters no gradient, where others have one: under a gradient of zeros weight
        decay would shrink what waits, step by step.
        """
        weights = {label: self._weights[label](step) for label in shares}
        if any(weights.values()):
            shares = {label: share if weights[label] else share.detach() for label, share in shares.items()}
        return torch.stack([weights[label] * share for label, share in shares.items()]).sum()

    def _has_begun(self, label: str, step: int) -> bool:
        return step >= self._begins.get(label, 0)

    def _place_of(self, label: str) -> Standpoint:
        return self.behind.get(label), self.widths.get(label)

    def _check(self, pairs: Pairs, step: int) -> None:
        self._check_sizes(pairs)
        for label, term in self._terms.items():
            if pairs.num_pairs < term.min_pairs:
                raise ValueError(f"term '{label}' needs {term.min_pairs} pairs, the batch has {pairs.num_pairs}")
            for need in sorted(term.needs - pairs.carries) if self._has_begun(label, step) else ():
                raise ValueError(f"term '{label}' needs {NEEDS[need]}, the batch has none")
        for name, head in self._heads.items():
            if head.reads == "features" and "features" not in pairs.carries:
                raise ValueError(f"head '{name}' needs {NEEDS['features']}, the batch has none")

    def _check_sizes(self, pairs: Pairs) -> None:
        """Compare batch sizes on first use; later a change is an error here, without a collective per step."""
        if pairs.num_processes == 1 or pairs.num_local in self._local_sizes:
            return
        if self._local_sizes:
            before = ", ".join(map(str, sorted(self._local_sizes)))
            raise ValueError(
                f"the local batch went from {before} to {pairs.num_local} pairs; with several processes "
                "its size must stay: drop the last incomplete batch, or build another Objective"
            )
        sizes = pairs.sizes()
        if len(set(sizes)) > 1:
            raise ValueError(f"processes have unequal batches {sizes}: give each the same number of pairs")
        self._local_sizes.add(pairs.num_local)
