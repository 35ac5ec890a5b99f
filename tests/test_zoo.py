"""The zoo's facts, and downloads from a server on this machine that misbehaves as asked."""

import dataclasses
import hashlib
import json
import sys
import threading
import urllib.error
from collections.abc import Callable, Iterator
from http.client import BadStatusLine, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import onceforall
from onceforall import cli, families, interop
from onceforall.errors import InputError
from onceforall.interop import zoo
from onceforall.supernet import SuperNet

CONTENT = bytes(range(256)) * 4000  # 1 MB
NAME = "ofa-note8-22"


def blob(data: bytes) -> str:
    return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Server:
    """Serves `files`; `cut` bytes into an answer the connection is closed, once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[str | None] = []  # the Range of each request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Range")
                outer.asked.append(given)
                data = outer.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start = int(given[6:-1]) if given and outer.ranges else 0
                if given and outer.ranges and start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if given and outer.ranges else 200)
                rest = data[start:]
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                if outer.cut is not None:
                    rest, outer.cut = rest[: outer.cut], None
                self.wfile.write(rest)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    made = Server()
    monkeypatch.setenv("ONCEFORALL_ZOO", made.url)
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path / "cache"))
    yield made
    made.close()


@pytest.fixture
def entry(server: Server) -> zoo.Published:
    """An entry whose file the server has."""
    real = zoo.get(NAME)
    server.files["/" + real.path] = CONTENT
    return dataclasses.replace(real, hash=blob(CONTENT))


def test_what_is_published() -> None:
    entries = zoo.entries()
    assert len(entries) == 4 + 58
    assert len({e.id for e in entries}) == len({e.name for e in entries}) == 62
    supernets = [e for e in entries if e.kind == "supernet"]
    assert [e.family for e in supernets] == list(interop.OFFICIAL)
    networks = [e for e in entries if e.kind == "network"]
    assert sum(e.arch is not None for e in networks) == 50
    assert all(e.top1 and e.top5 and e.params_millions and e.macs_millions for e in networks)
    for e in networks:
        assert f"top1-{e.top1}" in e.id
        assert (e.hash is None) == e.id.startswith("resnet50D")
        if e.latency_ms is not None:
            assert f"-{e.latency_ms:g}ms" in e.id
            assert e.device


def test_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONCEFORALL_ZOO", raising=False)
    found = zoo.get("note8_lat@22ms_top1@70.4_finetune@25")
    assert found is zoo.get(NAME) is zoo.get(found.id)
    base = "https://raw.githubusercontent.com/han-cai/files/master/ofa"
    assert found.url == f"{base}/ofa_specialized/note8_lat-22ms_top1-70.4_finetune-25/init"
    assert zoo.get("ofa_mbv3_w1.0").url == f"{base}/ofa_nets/ofa_mbv3_d234_e346_k357_w1.0"
    assert "media.githubusercontent.com" in zoo.get("ofa_resnet50").url
    with pytest.raises(InputError, match=r"did you mean 'ofa-note8-22'"):
        zoo.get("ofa-note8-222")


def test_a_download_is_verified_and_kept(server: Server, entry: zoo.Published) -> None:
    path = zoo.fetch(entry)
    assert path == entry.file
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["init"]
    assert zoo.fetch(entry) == path
    assert server.asked == [None]  # the second time from the cache


def test_a_download_is_resumed(server: Server, entry: zoo.Published) -> None:
    server.cut = 300_000
    with pytest.raises(InputError, match=r"cut off after 300000 of 1024000 bytes"):
        zoo.fetch(entry)
    assert not entry.file.exists()
    zoo.fetch(entry)
    assert entry.file.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_server_without_ranges_starts_again(server: Server, entry: zoo.Published) -> None:
    server.cut, server.ranges = 1000, False
    with pytest.raises(InputError):
        zoo.fetch(entry)
    zoo.fetch(entry)
    assert entry.file.read_bytes() == CONTENT


def test_a_whole_part_is_taken(server: Server, entry: zoo.Published) -> None:
    entry.file.parent.mkdir(parents=True)
    entry.file.with_name("init.part").write_bytes(CONTENT)
    zoo.fetch(entry)
    assert entry.file.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [None, b"of something else"])
def test_what_does_not_match_its_hash_is_not_kept(
    part: bytes | None, server: Server, entry: zoo.Published
) -> None:
    if part is None:
        server.files["/" + entry.path] = CONTENT[:-1] + b"!"
    else:
        entry.file.parent.mkdir(parents=True)
        entry.file.with_name("init.part").write_bytes(part)
    with pytest.raises(InputError, match="not what was published"):
        zoo.fetch(entry)
    assert not list(entry.file.parent.iterdir())


def test_a_large_files_hash(server: Server, entry: zoo.Published) -> None:
    own = dataclasses.replace(entry, hash="sha256:" + hashlib.sha256(CONTENT).hexdigest())
    zoo.fetch(own)
    bad = dataclasses.replace(entry, hash="sha256:" + "0" * 64)
    with pytest.raises(InputError, match="remove it"):
        zoo.fetch(bad)


def test_offline_it_says_where_to_put_the_file(
    entry: zoo.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEFORALL_ZOO", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be downloaded") as error:
        zoo.fetch(entry)
    assert str(entry.file) in str(error.value)
    assert "\n" not in str(error.value)
    entry.file.write_bytes(CONTENT)  # put there by hand
    assert zoo.fetch(entry) == entry.file
    entry.file.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="is not what was published"):
        zoo.fetch(entry)
    assert entry.file.exists()  # not ours to remove


@pytest.mark.parametrize(
    "error",
    [
        BadStatusLine("two\nlines"),
        IncompleteRead(b""),
        urllib.error.URLError(OSError(101, "Network is unreachable")),
        TimeoutError("timed out"),
    ],
)
def test_a_failed_download_is_one_line(
    error: Exception, entry: zoo.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fails)
    with pytest.raises(InputError, match=r"cannot be downloaded .*; fetch it elsewhere") as caught:
        zoo.fetch(entry)
    assert "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_what_is_not_there(server: Server, entry: zoo.Published) -> None:
    server.files.clear()
    with pytest.raises(InputError, match="Not Found"):
        zoo.fetch(entry)


def test_a_network_whose_config_is_not_known_is_fetched_with_it(
    server: Server, tmp_path: Path
) -> None:
    family = families.get("ofa_resnet50")
    described = interop.StaticNetwork(family, family.space.smallest())
    interop.write_network(tmp_path / "made", described, "official")
    entry = zoo.get("ofa-resnet50D-06")
    folder = "/" + entry.path.removesuffix("/init")
    for name in ("net.config", "run.config"):
        server.files[f"{folder}/{name}"] = (tmp_path / "made" / name).read_bytes()
    assert zoo.network(entry) == described
    assert zoo.network(entry) == described  # from the cache
    assert len(server.asked) == 2


@pytest.fixture
def resnet(server: Server, tmp_path: Path) -> zoo.Published:
    """An entry without a hash; the server has a network, with weights, in its place."""
    entry = zoo.get("ofa-resnet50D-06")
    assert entry.hash is None
    family = families.get("ofa_resnet50")
    described = interop.StaticNetwork(family, family.space.smallest())
    interop.write_network(tmp_path / "made", described, "official")
    interop.write_weights(tmp_path / "made" / "init", described.build(), *described)
    for name in ("net.config", "run.config", "init"):
        at = "/" + entry.path.replace("init", name)
        server.files[at] = (tmp_path / "made" / name).read_bytes()
    return entry


def test_what_has_no_hash_is_downloaded_only_when_told_to(
    server: Server, resnet: zoo.Published
) -> None:
    with pytest.raises(InputError, match="--unverified"):
        zoo.fetch(resnet)
    assert server.asked == []
    data = server.files["/" + resnet.path]
    assert zoo.fetch(resnet, unverified=True).read_bytes() == data
    assert zoo.fetch(resnet) == resnet.file  # it is here now
    assert isinstance(onceforall.load(resnet.id), torch.nn.Sequential)


def test_without_a_hash_keys_and_shapes_are_checked(server: Server, resnet: zoo.Published) -> None:
    other = families.get("ofa_resnet50").space.largest()
    described = interop.StaticNetwork(families.get("ofa_resnet50"), other)
    path = resnet.file.parent / "other"
    interop.write_weights(path, described.build(), *described)
    server.files["/" + resnet.path] = path.read_bytes()
    with pytest.raises(InputError, match=r"key 'input_stem.*nothing was kept"):
        zoo.fetch(resnet, unverified=True)
    assert not resnet.file.exists()
    server.files["/" + resnet.path] = b"<html>sign in</html>"
    with pytest.raises(InputError, match="nothing was kept"):
        zoo.fetch(resnet, unverified=True)
    assert not resnet.file.exists()


def test_a_pointer_to_a_large_file_brings_its_hash(
    server: Server, resnet: zoo.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = server.files["/" + resnet.path]
    monkeypatch.delenv("ONCEFORALL_ZOO")
    monkeypatch.setattr(zoo, "AUTHORS", server.url)
    monkeypatch.setattr(zoo, "LARGE_FILES", f"{server.url}/large")
    server.files[f"/large/{resnet.path}"] = data

    def pointer(digest: str) -> bytes:
        version = b"version https://git-lfs.github.com/spec/v1"
        return version + b"\noid sha256:%s\nsize %d\n" % (digest.encode(), len(data))

    server.files["/" + resnet.path] = pointer(hashlib.sha256(data).hexdigest())
    assert zoo.fetch(resnet, unverified=True).read_bytes() == data
    resnet.file.unlink()
    server.files["/" + resnet.path] = pointer("0" * 64)
    with pytest.raises(InputError, match="not what was published"):
        zoo.fetch(resnet, unverified=True)
    assert not resnet.file.exists()


def test_load_a_published_network_and_a_supernet(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.get(NAME)
    assert entry.arch is not None
    network = families.get(entry.family).build(entry.arch).eval()
    interop.write_weights(tmp_path / "init", network, *zoo.network(entry))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = network(x)
        torch.testing.assert_close(onceforall.load(entry.id, tmp_path / "init")(x), want)
    data = (tmp_path / "init").read_bytes()
    server.files["/" + entry.path] = data
    own = [dataclasses.replace(e, hash=blob(data)) if e is entry else e for e in zoo.entries()]
    monkeypatch.setattr(zoo, "entries", lambda: tuple(own))
    with torch.no_grad():
        torch.testing.assert_close(onceforall.load(NAME)(x), want)
    interop.write_network(tmp_path / "folder", zoo.network(entry), "official")
    with torch.no_grad():
        described = onceforall.load(str(tmp_path / "folder"), tmp_path / "init")
        torch.testing.assert_close(described(x), want)
    supernet = SuperNet(families.get("ofa_mbv3_w1.0"))
    interop.write_supernet(tmp_path / "net", supernet)
    loaded = onceforall.load("ofa_mbv3_w1.0", tmp_path / "net")
    assert isinstance(loaded, SuperNet)
    assert loaded.family == supernet.family
    with pytest.raises(InputError, match="no such file"):
        onceforall.load("nothing")


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, onceforall; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- commands


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line: (status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onceforall", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_the_zoo_command(run: Callable[..., tuple[int, str, str]], server: Server) -> None:
    status, out, _ = run("zoo", "--json")
    assert status == 0
    assert json.loads(out)["n"] == 62
    status, out, _ = run("zoo", NAME, "--json")
    shown = json.loads(out)
    assert shown["hash"] == "git:1fd23920efb3b81ccfe27075858c13c90885d6e0"
    assert shown["resolution"] == 140
    assert shown["cached"] is False
    status, out, err = run("zoo", NAME, "--download")
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "put it at" in err
    status, _, err = run("zoo", "ofa-resnet50D-06", "--download")
    assert status == 2
    assert "--unverified" in err
    assert run("zoo", NAME, "--unverified")[0] == 2
    assert run("zoo", "--download")[0] == 2
    assert run("zoo", "nonsense")[0] == 2


def test_the_convert_command(
    run: Callable[..., tuple[int, str, str]], server: Server, tmp_path: Path
) -> None:
    (tmp_path / "arch.txt").write_text(f"{zoo.get(NAME).arch}\n")
    source: object = tmp_path / "arch.txt"
    for i, form in enumerate(("official", "mmrazor", "arch-dict", "onceforall", "mmrazor")):
        target = tmp_path / f"{i}.json"
        status, out, err = run("convert", source, target, "--to", form, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out)["arch"] == str(zoo.get(NAME).arch)
        assert json.loads(out)["path"] == str(target)
        source = target
    assert (tmp_path / "1.json").read_text() == (tmp_path / "4.json").read_text()
    status, _, err = run("convert", source, source, "--to", "official")
    assert status == 2
    assert "exists already" in err
    assert run("convert", source, tmp_path / "new", "--to", "caffe")[0] == 2
    assert run("convert", tmp_path / "absent", tmp_path / "new", "--to", "official")[0] == 2
    other = ("--to", "official", "--family", "ofa_resnet50")
    status, _, err = run("convert", source, tmp_path / "new", *other)
    assert status == 2
    assert "--family ofa_resnet50" in err
    assert not (tmp_path / "new").exists()


def test_converting_weights(
    run: Callable[..., tuple[int, str, str]], server: Server, tmp_path: Path
) -> None:
    entry = zoo.get(NAME)
    described = zoo.network(entry)
    interop.write_weights(tmp_path / "w.pth", described.build(), *described)
    own, folder = tmp_path / "own.safetensors", tmp_path / "official"
    status, out, _ = run(
        "convert", NAME, own, "--weights", tmp_path / "w.pth", "--to", "onceforall", "--json"
    )
    assert status == 0
    assert json.loads(out)["kind"] == "network"
    assert run("convert", own, folder, "--to", "official")[0] == 0
    assert sorted(p.name for p in folder.iterdir()) == ["init", "net.config", "run.config"]
    assert run("convert", folder / "init", tmp_path / "m.pth", "--to", "mmrazor")[0] == 0
    want = interop.read_weights(tmp_path / "w.pth", *described).state_dict()
    got = interop.read_weights(tmp_path / "m.pth", *described).state_dict()
    assert all(torch.equal(got[key], tensor) for key, tensor in want.items())
    status, _, err = run("convert", tmp_path / "w.pth", tmp_path / "x", "--to", "official")
    assert status == 2
    assert "--weights" in err
