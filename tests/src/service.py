"""A small WSGI service: counts in a file what it is sent, and gives the count and the text back."""

import signal
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

COUNT = "/var/tmp/count"


def application(environ, start_response):
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        with open(COUNT) as file:
            count = int(file.read()) + 1
    except FileNotFoundError:
        count = 1
    with open(COUNT, "w") as file:
        file.write(str(count))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{count} {len(text)} ".encode(), text.upper()]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def end(number, frame):
    print("ends on signal", number, flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
with make_server("127.0.0.1", 8000, application, server_class=Server) as server:
    print("listens", flush=True)
    server.serve_forever()
