"""Write the class names and prompts under eval/ from the packages that publish them; nothing here is typed by hand.

pip install --no-deps --target /tmp/clip_benchmark clip-benchmark==1.6.2
PYTHONPATH=/tmp/clip_benchmark python eval/prepare/prompts.py
PYTHONPATH=/tmp/clip_benchmark python eval/prepare/prompts.py --cupl eval/prompts/imagenet1k-cupl.json

The first command is the whole installation: the package is read, not imported, and needs none of what it depends on.
Both packages, clip-benchmark and open_clip_torch, are under the MIT licence. CuPL's prompts are 9 MB and not committed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

EVAL = Path(__file__).resolve().parent.parent
PACKAGE = "clip_benchmark"
VERSION = "1.6.2"
IMAGENET = "imagenet1k"
LANGUAGES = ("ar", "cn", "it", "jp")
SUBSETS = {"imagenet-a": "imagenet_a_wnids", "imagenet-o": "imagenet_o_wnids", "imagenet-r": "imagenet_r_wnids"}
Content = list[str] | Mapping[str, list[str]]
NOT_KEPT = {"dummy"}  # of the package's own tests
NAMELESS = "(no name)"  # a class whose name is blank, which no line of a list can be


def datasets_folder() -> Path | None:
    """Return where clip_benchmark keeps its lists, or None where the version that these files are from is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or importlib.metadata.version("clip-benchmark") != VERSION:
        return None
    (folder,) = spec.submodule_search_locations or []
    return Path(folder, "datasets")


def constant(path: Path, name: str) -> Any:
    """Return the value of a list, set or text that a Python file assigns to a name, without running the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} assigns nothing to {name}")


def from_clip_benchmark(folder: Path) -> Iterator[tuple[str, Content]]:
    """Yield each file under eval/ that clip_benchmark decides, and its lines, or its prompts by class name."""
    names, prompts = _json(folder, "en_classnames"), _json(folder, "en_zeroshot_classification_templates")
    for task, lines in sorted(names.items()):
        if task != IMAGENET:  # open_clip's, the same
            yield f"classnames/{task}.txt", lines
        if not all(line.strip() for line in lines):
            yield f"prompts/{task}.json", {line or NAMELESS: _filled(prompts[task], line) for line in lines}
    for task, lines in sorted(prompts.items()):
        if task not in NOT_KEPT | {IMAGENET}:
            yield f"prompts/{task}.txt", lines
    all_ids = constant(folder / "builder.py", "all_imagenet_wordnet_ids")
    for task, name in SUBSETS.items():
        wanted = set(constant(folder / "builder.py", name))
        pairs = zip(all_ids, names[IMAGENET], strict=True)
        yield f"classnames/{task}.txt", [line for number, line in pairs if number in wanted]
    for language in LANGUAGES:
        yield f"classnames/{IMAGENET}-{language}.txt", _json(folder, f"{language}_classnames")[IMAGENET]
        templates = _json(folder, f"{language}_zeroshot_classification_templates")
        yield f"prompts/{IMAGENET}-{language}.txt", templates[IMAGENET]


def from_open_clip() -> Iterator[tuple[str, list[str]]]:
    """Yield each file under eval/ that open_clip decides, and its lines."""
    import open_clip

    yield f"classnames/{IMAGENET}.txt", list(open_clip.IMAGENET_CLASSNAMES)
    yield "prompts/imagenet_80.txt", [template("{c}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    yield "prompts/imagenet_7.txt", [template("{c}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]


def cupl(folder: Path) -> Mapping[str, list[str]]:
    """Return CuPL's prompts for ImageNet by class name (Pratt et al. 2023, arXiv:2209.03320)."""
    prompts: Mapping[str, list[str]] = _json(folder, "cupl_prompts")[IMAGENET]
    return prompts


def content_of(content: Content) -> str:
    """Return a file of one entry per line; white space around an entry goes, as it does when the file is read."""
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    return "".join(f"{line.strip() or NAMELESS}\n" for line in content)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=EVAL, help="folder of classnames/ and prompts/; default: eval/")
    parser.add_argument("--cupl", type=Path, metavar="FILE", help="write CuPL's prompts for ImageNet there instead")
    arguments = parser.parse_args()
    folder = datasets_folder()
    if folder is None:
        sys.exit(f"prompts: clip-benchmark {VERSION} is not installed; the first lines of this file say how to get it")
    if arguments.cupl:
        arguments.cupl.write_text(content_of(cupl(folder)), encoding="utf-8")
        return
    for name, lines in [*from_clip_benchmark(folder), *from_open_clip()]:
        path = arguments.to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content_of(lines), encoding="utf-8")


def _filled(templates: list[str], name: str) -> list[str]:
    return [template.replace("{c}", name).strip() for template in templates]


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
