"""Read weights into a model: all of it, or one tower, and count what was found."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from open_clip import CustomTextCLIP
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vlp.ground.types import RecipeError
from vlp.towers.caption_decoder import decoder_of
from vlp.towers.efficientnet_names import is_of_efficientnet, to_timm
from vlp.towers.learned_tokens import is_prompt
from vlp.towers.low_rank import merged
from vlp.towers.native_weights import fit_native
from vlp.towers.new_tokens import NewTokens
from vlp.towers.peft_folders import AdapterFolder
from vlp.towers.token_table import grown, table_name
from vlp.towers.transformers_names import is_of_transformers, to_open_clip
from vlp.towers.weight_files import read_tensors

DECODER = "text_decoder."  # what a CoCa calls its multimodal half
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")  # of torch, anywhere in a name
PROJECTION = re.compile(r"visual\.(proj|attnpool\.c_proj\.\w+|head\.proj\.\w+)|text\.(text_projection|proj)(\.\w+)?")
SIDES = {"visual.": "image tower", "text.": "text tower", DECODER: "caption decoder"}


@dataclass(frozen=True)
class Loaded:
    """How much of a tower came from a source of weights.

    Args:
        part: `visual.`, `text.` or `text_decoder.`.
        found: Tensors that the source had.
        of: Tensors of the tower.
        source: File, folder, tag, or name on the hub.
        note: What was done to them.
        learned: Learned tokens beside them, by name, for a way of tuning that has some.
    """

    part: str
    found: int
    of: int
    source: str
    note: str = ""
    learned: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        rest = "" if self.found == self.of else "; the others start at random"
        note = f"; {self.note}" if self.note else ""
        return f"{SIDES[self.part]}: {self.found} of {self.of} tensors from {self.source}{rest}{note}"


@dataclass(frozen=True)
class Layout:
    """One way in which files name the tensors of a model.

    Args:
        names: What the file is looked through for.
        translate: From these names to the model's.
        scope: Prefix of what such a file holds; what else the part has stays as it is, and is trained from scratch.
    """

    names: Collection[str]
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    scope: str


def load_weights(
    core: CustomTextCLIP,
    path: Path,
    *,
    part: str = "",
    source: str = "",
    adapters: AdapterFolder | None = None,
    new_tokens: NewTokens | None = None,
    num_known: int = 0,
) -> list[Loaded]:
    """Copy weights in any layout of open_clip and transformers, or of a backbone alone, out of any container.

    Position embeddings are resized where the grid differs; a causal text tower with a shorter context keeps the first.
    One tower alone may go to a shared space of another width: then its last projection starts at random.

    Args:
        part: Name prefix of what to copy, such as `visual.`; everything by default.
        source: What to call the file; its path by default.
        adapters: What is added to the weights.
        new_tokens: For which the text tower has rows.
        num_known: How many of these the file has too.

    Returns:
        What was found, tower by tower.

    Raises:
        RecipeError: The file lacks weights, has others, or of other shapes.
    """
    wanted = {name: value for name, value in core.state_dict().items() if name.startswith(part)}
    tensors = merged({_unwrapped(name): value for name, value in read_tensors(path).items()})
    layout, prefix = _recognise(core, part, tensors)
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        added = {} if adapters is None else adapters.add_to(inside, adapters.read())  # under names of the file
        state = layout.translate(inside)
        if decoder_of(core) is None:  # the two towers of a CoCa are a dual encoder
            state = {name: value for name, value in state.items() if not name.startswith(DECODER)}
        if adapters is not None:
            adapters.add_to(state, added, last=True)  # or of the model
        notes = _fit_positions(core, state)
        if new_tokens is not None:
            _add_rows(core, state, new_tokens, num_known)
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:  # such as positions of another width
        raise RecipeError(f"the weights in '{path}' are not of this model: {error}") from error
    found = {name: value for name, value in state.items() if name.startswith(part)}
    learned = {name: found.pop(name) for name in list(found) if is_prompt(name)}
    # a model with a sigmoid bias may start from one without
    if "logit_bias" in wanted and "logit_bias" not in found:
        found["logit_bias"] = core.logit_bias.detach()
    left, said = _other_projection(wanted, found) if part else (set(), "")
    if left:
        notes[part] = "; ".join(filter(None, [notes.get(part), said]))
        found = {name: value for name, value in found.items() if name not in left}
    asked = {name: value for name, value in wanted.items() if name.startswith(layout.scope) and name not in left}
    _check(path, asked, found, tensors)
    core.load_state_dict(found, strict=False)
    sides = [side for side in SIDES if (side.startswith(part) or part.startswith(side)) and _count(wanted, side)]
    return [
        Loaded(
            side,
            _count(found, side),
            _count(wanted, side),
            source or str(path),
            notes.get(side, ""),
            {name: value for name, value in learned.items() if name.startswith(side)},
        )
        for side in sides
    ]


def _count(names: Iterable[str], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in names)


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


# ---------------------------------------- which layout, behind which prefix
def _recognise(core: CustomTextCLIP, part: str, tensors: Mapping[str, Tensor]) -> tuple[Layout, str]:
    """Return the layout, and the prefix in front of its names (`module.`, `model.`), that explain most of a file."""
    best: tuple[int, Layout, str] | None = None
    for layout in _layouts(core, part, tensors):
        count, prefix = _best_prefix(tensors, layout.names)
        if best is None or count > best[0]:
            best = count, layout, prefix
    assert best is not None
    return best[1], best[2]


def _layouts(core: CustomTextCLIP, part: str, tensors: Mapping[str, Tensor]) -> Iterable[Layout]:
    names = set(core.state_dict())
    yield Layout(names, lambda state: convert_state_dict(core, state), part)
    plain = {name.removeprefix("text.") for name in names}
    yield Layout(plain, lambda state: convert_to_custom_text_state_dict(convert_state_dict(core, state)), part)
    theirs = {name[start:] for name in tensors for start in _places(name) if name[start:].startswith(_THEIR_TOWERS)}
    if is_of_transformers(theirs):
        yield Layout(theirs, to_open_clip, part)
    if part:  # a tower alone, or its backbone alone
        inner = [part, *(f"{part}{name}." for name in ("trunk", "transformer") if f"{part}{name}." in _groups(names))]
        for scope in inner:
            local = {name.removeprefix(scope) for name in names if name.startswith(scope)}
            theirs = {name[name.find("_") :] for name in tensors} if scope == "visual.trunk." else set()
            yield Layout(theirs if is_of_efficientnet(theirs) else local, partial(_of_backbone, core, scope), scope)


_THEIR_TOWERS = ("vision_model.", "text_model.", "visual_projection.", "text_projection.", "logit_")


def _groups(names: Iterable[str]) -> set[str]:
    return {name[:start] for name in names for start in _places(name)}


def _places(name: str) -> list[int]:
    """Return where the parts of a dotted name begin."""
    return [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]


def _best_prefix(names: Iterable[str], known: Collection[str]) -> tuple[int, str]:
    """Return how many names are known behind one prefix, and the prefix; the shortest of several."""
    counts = Counter(name[:start] for name in names for start in _places(name) if name[start:] in known)
    if not counts:
        return 0, ""
    prefix = min(counts, key=lambda each: (-counts[each], len(each)))
    return counts[prefix], prefix


def _of_backbone(core: CustomTextCLIP, scope: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a tower or backbone as the whole model does; timm's own filter and classifier apply."""
    visual = core.visual
    if scope == "visual.trunk." and isinstance(visual, TimmModel):
        if is_of_efficientnet(state):
            state = to_timm(state, visual.trunk)
        change = getattr(sys.modules[type(visual.trunk).__module__], "checkpoint_filter_fn", None)
        state = dict(state if change is None else change(state, visual.trunk))
        classifiers = getattr(visual.trunk, "pretrained_cfg", None) or {}
        heads = classifiers.get("classifier") or ()
        own = dict(visual.trunk.named_modules())
        for head in (heads,) if isinstance(heads, str) else heads:
            if not list(own.get(head, nn.Identity()).parameters()):
                state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    return {f"{scope}{name}": value for name, value in state.items()}


# ---------------------------------------- shapes
def _fit_positions(core: CustomTextCLIP, state: dict[str, Tensor]) -> dict[str, str]:
    """Give both towers as many positions as they have; return what was done, tower by tower."""
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(1)
    state.pop("text.transformer.embeddings.position_ids", None)  # written by transformers before 4.31
    resized = fit_native(core.visual, state) or _fit_trunk(core.visual, state)
    notes = {} if resized is None else {"visual.": resized}
    for side, fit in (("visual.", resize_pos_embed), ("text.", _fit_text_positions)):
        name = f"{side}positional_embedding"
        if name not in state:
            continue
        state[name] = state[name].float()
        before = len(state[name])
        how = fit(state, core) or "interpolated"
        if (after := len(state[name])) != before:
            notes[side] = f"its {before} positions {how} to {after}"
    return notes


def _fit_trunk(visual: nn.Module, state: dict[str, Tensor]) -> str | None:
    """Give a vision transformer of timm as many positions as it has; return what was done."""
    name, trunk = "visual.trunk.pos_embed", getattr(visual, "trunk", None)
    if not isinstance(trunk, VisionTransformer) or trunk.pos_embed is None or name not in state:
        return None
    before, after = state[name].shape[1], trunk.pos_embed.shape[1]
    if before == after:
        return None
    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    grid = list(trunk.patch_embed.grid_size)
    state[name] = resample_abs_pos_embed(state[name].float(), grid, num_prefix_tokens=prefix)
    return f"its {before} positions interpolated to {after}"


def _fit_text_positions(state: dict[str, Tensor], core: CustomTextCLIP) -> str | None:
    name, text = "text.positional_embedding", core.text
    is_causal = isinstance(text, TextTransformer) and text.attn_mask is not None
    if is_causal and text.cls_emb is not None and text.num_pos < len(state[name]):
        state[name] = torch.cat([state[name][: text.num_pos - 1], state[name][-1:]])  # the last is the class token's
        return "cut"
    if is_causal and core.context_length < len(state[name]) and text.cls_emb is None:
        state[name] = state[name][: core.context_length].clone()  # a token never sees those behind it
        return "cut"
    resize_text_pos_embed(state, core)
    return None


def _add_rows(core: CustomTextCLIP, state: dict[str, Tensor], new_tokens: NewTokens, num_known: int) -> None:
    """Give the table of tokens the rows that a file does not have."""
    name = f"text.{table_name(core.text)}"
    if name in state:
        rows = new_tokens.means(state[name])
        state[name] = grown(state[name], new_tokens.ids[num_known:], rows[num_known:])


def _other_projection(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[set[str], str]:
    """Return the tensors of a tower's last projection, and what is said of it, where it has another width."""
    pairs = {name: zip(found[name].shape, wanted[name].shape) for name in wanted.keys() & found.keys()}  # noqa: B905
    apart = {name: [sizes for sizes in pair if len(set(sizes)) > 1] for name, pair in pairs.items()}
    names = {name for name, sizes in apart.items() if sizes and PROJECTION.fullmatch(name)}
    widths = {sizes for name in names for sizes in apart[name]}
    if len(widths) != 1 or any(len(apart[name]) != 1 for name in names):
        return set(), ""
    theirs, ours = widths.pop()
    return names, f"its projection has {theirs} coordinates and the model {ours}, so that a new one learns"


def _check(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    have = len(wanted) - len(missing)
    if not have:
        names = ", ".join(sorted(tensors)[:3])
        raise RecipeError(
            f"the weights in '{path}' are not of this model: 0 of its {len(wanted)} tensors are there (the file has "
            f"{len(tensors)}, such as {names}; the model {', '.join(sorted(wanted)[:3])})"
        )
    if missing or surplus:
        raise RecipeError(
            f"the weights in '{path}' are not of this model: {have} of {len(wanted)} tensors found, {len(missing)} "
            f"missing {missing[:3]}, {len(surplus)} unknown {surplus[:3]}"
        )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise RecipeError(
                f"the weights in '{path}' are not of this model: '{name}' has shape {tuple(found[name].shape)}, "
                f"the model {tuple(value.shape)}"
            )
        if value.is_floating_point() and not found[name].is_floating_point():
            raise RecipeError(
                f"the weights in '{path}' are whole numbers of type {found[name].dtype} in '{name}': quantised, "
                "perhaps; take the weights from before that"
            )
        if value.is_floating_point() and not found[name].float().isfinite().all():
            raise RecipeError(f"the weights in '{path}' are broken: '{name}' has NaN or infinity")
