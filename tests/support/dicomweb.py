"""A DICOM series as a server offers it: DICOMweb, as far as MONAI Label asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom

BOUNDARY = "the-next-instance"


def pack(parts: dict[str, bytes]) -> bytes:
    """A multipart body of parts, each with the lines that stand before it."""
    packed = [f"--{BOUNDARY}\r\n{lines}\r\n\r\n".encode() + part + b"\r\n" for lines, part in parts.items()]
    return b"".join(packed) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def serve_series(folder: Path) -> Iterator[str]:
    """A DICOMweb server on the loopback device that has one series; gives its URL."""
    files = sorted(folder.iterdir())
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    described = pydicom.Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        setattr(described, keyword, header[keyword].value)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/series?"):
                found = [] if "Modality=SEG" in self.path else [described.to_json_dict()]
                kind, body = "application/dicom+json", json.dumps(found).encode()
            else:
                kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
                lines = "Content-Type: application/dicom\r\nContent-Location: /"
                body = pack({f"{lines}{file.name}": file.read_bytes() for file in files})
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
