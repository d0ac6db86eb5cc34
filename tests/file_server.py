"""A local web server of files that can break connections, for tests of downloads."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` (name to bytes) and remembers the Range of every request.

    Args:
        files: what is served.
        break_after: bytes after which the connection is cut, once for each number.
        ranges: whether parts of files are served.
    """

    def __init__(self, files, break_after=(), ranges=True):
        self.files, self.break_after, self.ranges = files, list(break_after), ranges
        self.requests = []

    def answer(self, handler):
        name, asked = handler.path.rsplit("/", 1)[-1], handler.headers.get("Range")
        self.requests.append((name, asked))
        if name not in self.files:
            handler.send_error(404)
            return
        content, start = self.files[name], 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        part = content[start:]
        handler.wfile.write(part[: self.break_after.pop(0)] if self.break_after else part)


@contextmanager
def serving(server):
    """The address of a running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()
