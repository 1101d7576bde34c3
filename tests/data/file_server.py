"""A server on this machine that also truncates, corrupts, stalls, breaks off and answers nonsense."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schurgan.core.errors import SchurganError
from schurgan.data.download import REMOTES, Patience, Remote, download

QUICK = Patience(stall=0.4, tries=3, pause=0.01)


class Server:
    """Gives `data`, as `how` says; `asked` are the headers Range of the requests so far."""

    def __init__(self) -> None:
        self.data, self.how, self.asked = b"", "well", []
        self.times = 10**9  # requests that are answered as `how` says; the later ones are answered well
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(self.headers["Range"])
                how = server.how if len(server.asked) <= server.times else "well"
                self.close_connection = True
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    answer(self, server.data, how)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/archive.tar.gz"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def answer(request: BaseHTTPRequestHandler, data: bytes, how: str) -> None:
    if how.isdigit():
        request.send_error(int(how))
        return
    if how == "nonsense":
        request.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
        return
    if how == "redirects" and request.path != "/elsewhere":
        request.send_response(302)
        request.send_header("Location", "/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    if how == "in circles":
        request.send_response(302)
        request.send_header("Location", request.path)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    if how == "corrupts":
        data = data[:-20] + bytes(byte ^ 255 for byte in data[-20:])
    start, wanted = 0, request.headers["Range"]
    if wanted and how != "ignores Range":
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        request.send_response(200)
    part = data[start:]
    if how in ("chunks", "half a chunk"):
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s" % (len(part), part if how == "chunks" else part[: len(part) // 2]))
        request.wfile.write(b"\r\n0\r\n\r\n" if how == "chunks" else b"")
        return
    if how != "no length":
        request.send_header("Content-Length", str(len(part)))
    request.end_headers()
    if how in ("truncates", "stalls"):
        request.wfile.write(part[: len(part) // 2])
        request.wfile.flush()
        time.sleep(2 if how == "stalls" else 0)
    elif how == "trickles":
        for byte in part[:40]:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.05)
    else:
        request.wfile.write(part)


def tar(folder: Path, name: str, extra: Callable[[tarfile.TarFile], None] = lambda packed: None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.add(folder, name)
        extra(packed)
    return buffer.getvalue()


def remotes(server: Server, data: bytes, checked: bool = True, url: str | None = None) -> dict[str, Remote]:
    md5 = hashlib.md5(data).hexdigest() if checked else None
    official = REMOTES["cifar10"]
    return {"cifar10": Remote(url or server.url, len(data), md5, official.folder, official.inside)}


def fetched(server: Server, data: bytes, out: Path, how: str = "well", times: int = 10**9, **options: bool) -> Path:
    server.data, server.how, server.times = data, how, times
    home, source = download("cifar10", out, patience=QUICK, remotes=remotes(server, data, **options))
    assert len(source.items()) == 48
    assert source.skipped == ()
    assert [path.name for path in out.iterdir()] == ["cifar-10-batches-py"]  # no archive, lock or scratch is left
    return home


def refusal(server: Server, data: bytes, out: Path, how: str = "well", **options: bool) -> str:
    server.data, server.how = data, how
    with pytest.raises(SchurganError) as caught:
        download("cifar10", out, patience=QUICK, remotes=remotes(server, data, **options))
    assert "\n" not in str(caught.value)
    assert not (out / "cifar-10-batches-py").exists()
    return str(caught.value)


def left(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


PARTIAL = ".cifar-10-batches-py.tar.gz.partial"
