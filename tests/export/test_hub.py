"""push: a double of the hub takes the folders, failures and all, and every library loads them from there."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from tests.hub_double import hub_double
from tests.towers.tiny import tiny_bert, tiny_model
from vlp.export import export_model
from vlp.export.checksums import changed_files
from vlp.export.hub import push
from vlp.ground.types import RecipeError

WORDS = {"name": "tiny", "recipe_text": "name: tiny", "results": [], "data_note": "none"}

# one process for all of it: the hub's client reads its environment when imported, and importing takes seconds
PUSH_AND_LOAD = """
import json, sys
from pathlib import Path
import open_clip, torch
import transformers
from tests.towers.tiny import CAPTIONS, tiny_images
from vlp.export.checksums import changed_files
from vlp.export.hub import push
from vlp.towers.encoder import TowerEncoder
from vlp.towers.load import load_any_model, load_model

picture, found = tiny_images()[0], {}

def far(one, other):
    return (one - other).abs().max().item()

for folder, name in zip(sys.argv[1:], ("me/tiny", "me/bert")):
    found[name] = {"address": push(Path(folder), name)}
    ours, there = TowerEncoder(load_model(folder)), TowerEncoder(load_model(f"hf-hub:{name}"))
    core, transform = open_clip.create_model_from_pretrained(f"hf-hub:{name}")
    tokenizer = open_clip.get_tokenizer(f"hf-hub:{name}")
    core.eval()
    with torch.no_grad():
        image = core.encode_image(transform(picture)[None], normalize=True)
        text = core.encode_text(tokenizer(CAPTIONS), normalize=True)
    found[name]["far"] = [
        far(image, ours.embed_images([picture])),
        far(text, ours.embed_texts(CAPTIONS)),
        far(there.embed_texts(CAPTIONS), ours.embed_texts(CAPTIONS)),
    ]
    if name == "me/tiny":
        twin = transformers.AutoModel.from_pretrained(name, dtype=torch.float32)
        processor = transformers.AutoProcessor.from_pretrained(name, backend="pil")
        with torch.no_grad():
            words = processor(text=CAPTIONS, images=picture, padding=True, truncation=True, return_tensors="pt")
            output = twin(**words)
        found[name]["far"] += [far(output.image_embeds, image), far(output.text_embeds, text)]
push(Path(sys.argv[1]), "me/hidden", private=True, revision="later")
there, here = load_model("hf-hub:me/adapters"), load_model(sys.argv[3])
found["adapters"] = [far(one, other) for one, other in zip(there.parameters(), here.parameters(), strict=True)]
adapted = load_any_model("hf-hub:me/adapters")  # what vlp eval takes
found["adapters"] += [far(one, other) for one, other in zip(adapted.parameters(), here.parameters(), strict=True)]
found["moved"] = far(here.core.visual.proj, load_model("hf-hub:me/tiny").core.visual.proj)
print(json.dumps(found))
"""


def run(script, hub, home, *arguments):
    """Run a script in a process of its own that knows no other hub than the double."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {
        **keep,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_dummy",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_adapters(folder, base):
    """Write adapters that put another projection of images in the place of a model's."""
    folder.mkdir()
    projection = tiny_model().core.visual.proj.detach() + 1
    save_file({"base_model.model.visual.proj": projection}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_pushed_models_load_from_the_hub(tmp_path):
    tiny = export_model(tiny_model(), tmp_path / "tiny", **WORDS).folder
    encoder = {"type": "transformers", "name": tiny_bert(tmp_path / "encoder"), "context_length": 24}
    bert = export_model(tiny_model(text=encoder), tmp_path / "bert", **WORDS).folder
    adapters = write_adapters(tmp_path / "adapters", "me/tiny")
    with hub_double(**{"/preupload/": 1, "/large/": 1}) as hub:
        hub.repositories["me/adapters"] = files_of(adapters)
        found = run(PUSH_AND_LOAD, hub, tmp_path / "home", tiny, bert, adapters)
    assert not any(hub.failures.values())
    assert found["me/tiny"]["address"] == f"{hub.address}/me/tiny"
    assert len(found["me/tiny"]["far"]) == 5
    assert max(found["me/tiny"]["far"] + found["me/bert"]["far"]) < 1e-5, found
    assert max(found["adapters"]) == 0 < found["moved"]
    assert hub.repositories["me/tiny"] == files_of(tiny)
    assert {"POST /api/models/me/hidden/branch/later", "POST /api/models/me/hidden/commit/later"} <= set(hub.calls)
    text = json.loads(hub.repositories["me/bert"]["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert text["hf_model_name"] == text["hf_tokenizer_name"] == "me/bert"


def test_an_unfinished_export_is_not_pushed(tmp_path):
    with pytest.raises(RecipeError, match="no finished export"):
        push(tmp_path, "me/tiny")


PUSH_TWICE = """
import json, sys, time
from vlp.cli import main

time.sleep = lambda seconds: None  # half a minute between the tries of the hub's client
said = []
for _ in range(2):
    try:
        main(["push", sys.argv[1], "me/tiny"])
        said.append("")
    except SystemExit as ended:
        said.append(str(ended.code))
print(json.dumps(said))
"""


def test_a_push_that_broke_off_is_completed_by_the_same_command(tmp_path):
    tiny = export_model(tiny_model(), tmp_path / "tiny", **WORDS).folder
    with hub_double(**{"/commit/": 20}) as hub:
        first = run(PUSH_TWICE.replace("range(2)", "range(1)"), hub, tmp_path / "home", tiny)
        assert first[0].startswith("vlp: the hub did not take 'me/tiny'")
        assert not hub.repositories.get("me/tiny")
        hub.failures.clear()
        assert run(PUSH_TWICE, hub, tmp_path / "home", tiny) == ["", ""]
        assert hub.repositories["me/tiny"] == files_of(tiny)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json", "README.md"])
def test_what_changed_since_the_export_is_not_pushed_but_for_the_card(tmp_path, name):
    tiny = export_model(tiny_model(), tmp_path / "tiny", **WORDS).folder
    content = bytearray((tiny / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny / name).write_bytes(content)
    assert changed_files(tiny) == ([] if name == "README.md" else [name])
    if name != "README.md":
        with pytest.raises(RecipeError, match=rf"{name} is not as exported"):
            push(tiny, "me/tiny")
