"""Upload an exported folder to the Hugging Face hub, or to what HF_ENDPOINT names."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from vlp.export.checksums import write_checksums
from vlp.export.open_clip import point_to
from vlp.types import RecipeError


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Create the repository if needed, upload the folder in one commit, and return the repository's address.

    Args:
        repo: ORG/NAME on the hub.
        private: Create it for members alone.

    Raises:
        RecipeError: The folder is no finished export, or the hub refuses.
    """
    if not (folder / "parity.json").is_file():
        raise RecipeError(f"'{folder}' is no finished export: it has no parity.json")
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            copy = Path(work) / "export"
            shutil.copytree(folder, copy, copy_function=_link)
            point_to(copy, repo)
            write_checksums(copy)
            api.upload_folder(repo_id=repo, folder_path=copy, commit_message="Upload model")
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
