"""Whatever a disk, a network, a permission or a stranger's file does, a command ends in one line, no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
from PIL import Image

from tests.shards import write_shards
from vlp.cli import build_parser, main
from vlp.ground.errors import one_line

PLACES = [
    *("missing", "missing.yaml", "missing/deep.yaml", "folder", "folder.yaml", "empty", "empty.yaml", "bytes"),
    *("bytes.yaml", "list.yaml", "wrong.yaml", "below/file", "below/file.yaml", "loop", "loop.yaml", "pipe"),
    *("pipe.yaml", "dangling.yaml", "n" * 300, "n" * 300 + ".yaml", "~nosuchuser/x", "..", "latin.yaml"),
    *("spaces in it.yaml",),
]
WORKING = (
    "missing",
    "missing.yaml",
    "missing/deep.yaml",
    "folder",
    "folder.yaml",
    "..",
    "spaces in it.yaml",
    "dangling.yaml",
)
COMMANDS = {
    "train": ["train", "{}"],
    "train --resume": ["train", "{}", "--resume"],
    "train runs": ["train", "smoke", "runs={}/x", "data.train={embedded: null, mine: {card: missing.yaml}}"],
    "train weights": ["train", "smoke", "model.weights={}", "train.steps=1"],
    "train card": ["train", "smoke", "data.train={embedded: null, mine: {card: '{}'}}"],
    "eval": ["eval", "{}"],
    "eval task": ["eval", "missing", "--tasks", "{}"],
    "robust": ["robust", "{}"],
    "robust task": ["robust", "missing", "--tasks", "{}"],
    "robust attacks": ["robust", "missing", "--attacks", "{}"],
    "caption": ["caption", "{}", "pairs"],
    "caption images": ["caption", "missing", "{}"],
    "embed": ["embed", "{}", "embedded", "--to", "out"],
    "embed data": ["embed", "missing", "{}", "--to", "out"],
    "embed views": ["embed", "missing", "embedded", "--to", "out", "--views", "1", "--recipe", "{}"],
    "embed views data": ["embed", "missing", "{}", "--to", "out", "--views", "1", "--recipe", "smoke"],
    "mine": ["mine", "{}", "embedded", "--to", "out"],
    "mine data": ["mine", "missing", "{}", "--to", "out"],
    "agree": ["agree", "{}", "{}"],
    "agree data": ["agree", "missing", "missing", "--data", "{}"],
    "compare": ["compare", "{}", "missing"],
    "eval against": ["eval", "missing", "--against", "{}"],
    "report": ["report", "{}"],
    "export": ["export", "{}", "--to", "out"],
    "stages": ["stages", "{}"],
    "merge": ["merge", "{}", "missing", "--to", "out"],
    "merge to": ["merge", "missing", "missing", "--to", "{}/x"],
    "merge greedy": ["merge", "missing", "missing", "--greedy", "{}", "--to", "out"],
    "interpolate": ["interpolate", "{}", "--to", "out"],
    "interpolate end": ["interpolate", "missing", "{}", "--own", "emoji24", "--kept", "photos-cc0", "--to", "out"],
    "interpolate own": ["interpolate", "missing", "missing", "--own", "{}", "--kept", "emoji24", "--to", "out"],
    "interpolate to": ["interpolate", "missing", "--own", "emoji24", "--kept", "photos-cc0", "--to", "{}/x"],
    "push": ["push", "{}", "me/model"],
    "config": ["config", "{}"],
    "config --sources": ["config", "{}", "--sources"],
    "plan": ["plan", "{}"],
    "plan calibration": ["plan", "smoke", "--calibration", "{}"],
    "bench train": ["bench", "train", "{}", "--steps", "1"],
    "data pack": ["data", "pack", "{}", "--to", "out"],
    "data pack to": ["data", "pack", "pairs", "--to", "{}/x"],
    "data pack-eval": ["data", "pack-eval", "{}", "--to", "out"],
    "data pack-eval to": ["data", "pack-eval", "pairs", "--to", "{}/x"],
    "data pack-eval names": [
        "data",
        "pack-eval",
        "pairs",
        "--to",
        "out",
        "--kind",
        "classification",
        "--class-names",
        "{}",
    ],
    "data verify": ["data", "verify", "{}"],
    "data inspect": ["data", "inspect", "{}"],
    "data index": ["data", "index", "{}"],
    "data bench": ["data", "bench", "{}"],
    "data filter": ["data", "filter", "{}", "--to", "out.yaml", "--rules", "missing"],
    "data filter rules": ["data", "filter", "embedded", "--to", "out.yaml", "--rules", "{}"],
    "data split": ["data", "split", "{}", "--to", "out", "--shares", "a=0.5,b=0.5"],
    "describe": ["describe", "{}.x"],
    "describe --search": ["describe", "--search", "{}?"],
    "from-open-clip": ["from-open-clip", "--to", "{}/x", "--", "--model", "RN50"],
    "from-open-clip words": ["from-open-clip", "--", "--model", "RN50", "--batch-size", "{}"],
    "doctor": ["doctor", "{}"],
}

PACKS = [command for command in COMMANDS if command.startswith("data pack")]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A working directory of things that are not what a command expects."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").write_text("a file, not a folder")
    for suffix in ("", ".yaml"):
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"empty{suffix}").write_bytes(b"")
        (tmp_path / f"bytes{suffix}").write_bytes(bytes(range(256)) * 20)
        (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
        os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / "dangling.yaml").symlink_to("nowhere.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2, 3]\n")
    (tmp_path / "wrong.yaml").write_text("shards: 5\nname: [1]\nversion: {}\nextends: 7\ntrain: x\nmodel: 3\n")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    (tmp_path / "spaces in it.yaml").write_text("a: b\n")
    (tmp_path / "pairs").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pairs" / "a.png")
    (tmp_path / "pairs" / "a.txt").write_text("a square")
    write_shards(tmp_path / "shards", num_shards=1, samples_per_shard=3)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_place_gives_a_traceback(places, command, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for place in PLACES:
        words = [word.replace("{}", place) for word in COMMANDS[command]]
        with pytest.raises(SystemExit) as ended:
            main(words)
            raise SystemExit(0)
        said = ended.value.code if isinstance(ended.value.code, str) else ""
        assert "Traceback" not in said + capfd.readouterr().err, words
        may_work = command in (*PACKS, "from-open-clip") and place in WORKING
        assert ended.value.code != 0 or may_work, words
        assert len(said) < 3000, words


def test_every_command_is_tried():
    actions = [action for action in build_parser()._actions if action.choices]
    names = {name for action in actions for name in action.choices}
    tried = {words[0] for words in COMMANDS.values()}
    assert names - tried == {"list"}  # takes no place


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "x"), TimeoutError("slow"), MemoryError()])
def test_errors_of_the_outside_are_one_line(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("vlp.commands.listing.list_things", fail)
    with pytest.raises(SystemExit, match=type(error).__name__) as ended:
        main(["list", "tasks"])
    assert "\n" not in str(ended.value.code)
    monkeypatch.setenv("VLP_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["list", "tasks"])


def test_mistakes_of_the_program_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("vlp.commands.listing.list_things", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list", "tasks"])


def test_words_without_a_message_have_a_kind():
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(OSError("a\nb")) == "OSError: a b"


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path):
    command = f"{sys.executable} -m vlp.cli list models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 500 no\r\n\r\n", b"\xff" * 64, b"HTTP/1.1 200 OK\r\n\r\n<html>"])
def test_a_hub_that_answers_nonsense_gives_one_line(tmp_path, answer):
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    words = [sys.executable, "-m", "vlp.cli", "eval", "hf-hub:me/nothing"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
    server.close()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "hf-hub:me/nothing" in done.stderr.splitlines()[-1]


def test_what_strangers_write_is_quoted_without_its_tricks(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a\x1b[2Jb,c\x00d\n1,2\n")
    with pytest.raises(SystemExit) as ended:
        main(["data", "pack", str(path), "--to", str(tmp_path / "out")])
    assert "\\x1b[2Jb" in str(ended.value.code)
    assert "\x1b" not in str(ended.value.code)
