"""Upload an exported folder to the Hugging Face hub, or to what HF_ENDPOINT names."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from vlp.export.as_open_clip import point_to
from vlp.export.checksums import changed_files, write_checksums
from vlp.ground.types import RecipeError
from vlp.towers.peft_folders import ADAPTER_CONFIG


def push(folder: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Create the repository if needed, upload the folder in one commit, and return the repository's address.

    Files that are there already are not sent again, so the same call completes an upload that broke off.

    Args:
        repo: ORG/NAME on the hub.
        private: Create it for members alone.
        revision: Branch to upload to; made if it is not there.

    Raises:
        RecipeError: The folder is no finished export, its files are not those that were exported, or the hub refuses.
    """
    if not folder.is_dir():
        raise RecipeError(f"'{folder}' is no folder: vlp export RUN --to FOLDER makes one")
    if not any((folder / name).is_file() for name in ("parity.json", ADAPTER_CONFIG)):
        raise RecipeError(
            f"'{folder}' is no finished export: it has no parity.json; vlp export RUN --to FOLDER makes one"
        )
    if changed := changed_files(folder):
        raise RecipeError(
            f"'{folder}': {', '.join(changed[:3])} {'is' if len(changed) == 1 else 'are'} not as exported (checksums): "
            "export again, or write the checksums anew once you have looked"
        )
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            copy = Path(work) / "export"
            shutil.copytree(folder, copy, copy_function=_link)
            point_to(copy, repo)
            write_checksums(copy)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=copy, commit_message="Upload model", revision=revision)
    except HFValidationError as error:
        raise RecipeError(f"'{repo}' is no name for a repository: use ORG/NAME ({error})") from error
    except (HfHubHTTPError, OSError) as error:
        raise RecipeError(f"the hub did not take '{repo}': {error}; is HF_TOKEN set and allowed to write?") from error
    return str(address)


def _link(source: str, target: str) -> None:
    """Link the large files and copy the one that changes."""
    if source.endswith(".safetensors"):
        Path(target).symlink_to(Path(source).resolve())
    else:
        shutil.copy2(source, target)
