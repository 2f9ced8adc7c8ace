"""Shards in S3 and GCS buckets (servers on this machine) and in a Hub repository (a double of it)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flaky_server import Answers, serving
from tests.forks import forked
from tests.shards import write_shards
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.shards import download
from vlp.data.shards.cache import cache_folder
from vlp.data.shards.shard import open_shards
from vlp.ground.types import RecipeError

moto = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def system(endpoint):
    return s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False)


@pytest.fixture
def bucket(system, tmp_path, monkeypatch):
    """A bucket with two shards, and a file system to change them with."""
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    name = tmp_path.name.replace("_", "-")
    system.mkdir(name)
    write_shards(tmp_path / "tiny", 2, 4)
    for path in sorted((tmp_path / "tiny").glob("*.tar")):
        system.pipe_file(f"{name}/tiny/{path.name}", path.read_bytes())
    return system, name


def card_of(bucket, endpoint, pattern: str, **settings) -> Card:
    options = {"endpoint_url": endpoint}
    return Card(
        **{"name": "x", "shards": f"s3://{bucket[1]}/tiny/{pattern}", "options": options, "tries": 3, **settings}
    )


def texts(shard) -> list[bytes]:
    return [shard.read(shard.members(place)["txt"]) for place in range(len(shard))]


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00001}.tar"])
def test_shards_in_a_bucket_are_listed_and_read(bucket, endpoint, tmp_path, pattern):
    shards = open_shards(card_of(bucket, endpoint, pattern))
    local = open_shards(Card(name="local", shards=f"{tmp_path}/tiny/*.tar"))
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar"]
    assert [texts(shard) for shard in shards] == [texts(shard) for shard in local]


def test_blocks_are_asked_for_until_they_come(bucket, endpoint, monkeypatch):
    monkeypatch.setattr("vlp.data.shards.remote.BLOCK", 1000)
    troubles = ["fail", "", "short", "", "hang"]
    asked = []
    real = s3fs.S3FileSystem._cat_file

    async def flaky(self, path, version_id=None, start=None, end=None):
        asked.append(start)
        trouble = troubles.pop(0) if troubles else ""
        if trouble == "fail":
            raise OSError("connection reset by peer")
        if trouble == "hang":
            raise TimeoutError
        data = await real(self, path, version_id=version_id, start=start, end=end)
        return data[: len(data) // 2] if trouble == "short" else data

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", flaky)
    (shard,) = open_shards(card_of(bucket, endpoint, "00000.tar", tries=4))
    assert shard.stats.counts == {"connection": 1, "short": 1, "stalled": 1}
    assert asked[:7] == [0, 0, 1000, 1500, 2500, 2500, 3500]
    assert len(texts(shard)) == 4


def test_an_object_replaced_between_two_blocks_is_never_glued_together(bucket, endpoint, tmp_path, monkeypatch):
    """The size stays, so that nothing but the version tells."""
    monkeypatch.setattr("vlp.data.shards.remote.BLOCK", 1000)
    name = bucket[1]
    other = (tmp_path / "tiny" / "00001.tar").read_bytes()
    assert len(other) == (tmp_path / "tiny" / "00000.tar").stat().st_size
    asked = []
    real = s3fs.S3FileSystem._cat_file

    async def replacing(self, path, version_id=None, start=None, end=None):
        asked.append(start)
        if len(asked) == 3:
            await self._pipe_file(f"{name}/tiny/00000.tar", other)
        return await real(self, path, version_id=version_id, start=start, end=end)

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", replacing)
    with pytest.raises(RecipeError, match="has 20480 bytes and version"):
        open_shards(card_of(bucket, endpoint, "00000.tar"))
    assert not list(cache_folder("copies").glob("*.tar"))


def test_an_object_that_hangs_is_timed_out(bucket, endpoint, monkeypatch):
    import asyncio

    async def hang(self, path, **_):
        await asyncio.sleep(30)

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", hang)
    with pytest.raises(RecipeError, match="no answer in time"):
        open_shards(card_of(bucket, endpoint, "00000.tar", timeout=0.05, tries=1))


def test_missing_objects_and_empty_listings_are_named(bucket, endpoint):
    with pytest.raises(RecipeError, match=r"cannot read 1 of 3 shards: .*00002\.tar: not found"):
        open_shards(card_of(bucket, endpoint, "{00000..00002}.tar"))
    with pytest.raises(RecipeError, match="no file matches s3://"):
        open_shards(card_of(bucket, endpoint, "*.tgz"))


def test_an_object_replaced_after_the_start_is_a_fault(bucket, endpoint, tmp_path):
    system, name = bucket
    (shard,) = open_shards(card_of(bucket, endpoint, "00000.tar", counts={"00000.tar": 4}))
    system.pipe_file(f"{name}/tiny/00000.tar", (tmp_path / "tiny" / "00001.tar").read_bytes()[::-1])
    with pytest.raises(BadSampleError, match="run vlp data index again if it was replaced"):
        shard.members(0)
    assert shard.stats.counts == {"changed": 3}


def test_a_forked_process_reads_what_its_parent_opened(bucket, endpoint):
    (shard,) = open_shards(card_of(bucket, endpoint, "00000.tar", counts={"00000.tar": 4}))
    assert forked(lambda: len(texts(shard)) == 4)


def test_shards_in_a_gcs_bucket_are_listed_and_read(tmp_path, monkeypatch):
    # Read when gcsfs is imported; with it gcsfs asks over gRPC, which the emulator lacks.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    gcsfs = pytest.importorskip("gcsfs")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="tiny")
    server.start()
    try:
        address = "http://{}:{}".format(*server._api._httpd.server_address)
        options = {"endpoint_url": address, "token": "anon"}
        write_shards(tmp_path / "tiny", 2, 4)
        for path in (tmp_path / "tiny").glob("*.tar"):
            gcsfs.GCSFileSystem(**options).pipe_file(f"tiny/shards/{path.name}", path.read_bytes())
        check_both(tmp_path, "gs://tiny/shards", options)
    finally:
        server.stop()


def test_shards_in_a_hub_repository_are_listed_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    write_shards(tmp_path / "tiny", 2, 4)
    commit = "0123456789abcdef0123456789abcdef01234567"
    with serving() as server:
        api = "/api/datasets/me/tiny"
        monkeypatch.setattr(Answers, "do_POST", post, raising=False)
        files = {f"shards/{path.name}": path.read_bytes() for path in sorted((tmp_path / "tiny").glob("*.tar"))}
        rows = [{"type": "file", "path": name, "size": len(data), "oid": commit} for name, data in files.items()]
        tree = [{"type": "directory", "path": "shards", "oid": commit}]
        about = {"id": "me/tiny", "sha": commit, "siblings": [], "tags": []}
        answers = {api: about, f"{api}/tree/main": tree, f"{api}/tree/main/shards": rows}
        answers[f"{api}/paths-info/main"] = rows
        server.files = {name: json.dumps(answer).encode() for name, answer in answers.items()}
        server.files |= {f"/datasets/me/tiny/resolve/main/{name}": data for name, data in files.items()}
        check_both(tmp_path, "hf://datasets/me/tiny/shards", {"endpoint": server.address})


def post(answers: Answers) -> None:
    """Answer with what is there for everybody: the client picks its rows."""
    answers.rfile.read(int(answers.headers.get("Content-Length") or 0))
    answers.answer(200, answers.server.files[answers.path])


def check_both(folder: Path, address: str, options: dict) -> None:
    """Read two shards by a pattern and by their names."""
    local = open_shards(Card(name="local", shards=f"{folder}/tiny/*.tar"))
    for name, pattern in (("listed", "*.tar"), ("named", "{00000..00001}.tar")):
        shards = open_shards(Card(name=name, shards=f"{address}/{pattern}", options=options, tries=2))
        assert [shard.location for shard in shards] == [f"{address}/{name}.tar" for name in ("00000", "00001")]
        assert [texts(shard) for shard in shards] == [texts(shard) for shard in local]
        assert shards[0].known.tag and shards[0].stats.counts == {}
