"""Archives of data sets, served from this machine to itself."""

import dataclasses
import functools
import http.server
import threading
import zipfile

import pytest
from PIL import Image

from yolo_musgd.data.archive import digest


@pytest.fixture
def serve(tmp_path):
    """``serve(source, files)``: the URL of an archive with these files, and the source with their digest.

    A file is text, a picture or the path of one. The real download code runs, on the loopback interface.
    """
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def put(source, files):
        top = tmp_path / "top" / source.repository.replace("/", "-")
        for name, content in files.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content.read_bytes())
        with zipfile.ZipFile(folder / "archive.zip", "w") as out:
            for path in sorted(p for p in top.rglob("*") if p.is_file()):
                out.write(path, f"repo-abc/{path.relative_to(top)}")
        url = f"http://127.0.0.1:{server.server_address[1]}/archive.zip"
        return url, dataclasses.replace(source, digest=digest(top, source.used))

    yield put
    server.shutdown()
