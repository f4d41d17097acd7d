"""Tries what it reads, lines of protocol, address and port, all at once; says of each "yes" or why not."""

import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address, port):
    with socket.create_connection((address, port), TIMEOUT) as stream:
        stream.settimeout(TIMEOUT)
        return stream.recv(5) == b"hello"


def udp(address, port):
    with socket.socket(family(address), socket.SOCK_DGRAM) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect((address, port))
        peer.send(b"ping")
        return peer.recv(10) == b"ping"


def icmp(address, _):
    is_v6 = ":" in address
    protocol = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    with socket.socket(family(address), socket.SOCK_DGRAM, protocol) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect((address, 0))
        peer.send(struct.pack("!BBHHH", 128 if is_v6 else 8, 0, 0, 1, 1) + b"ping")
        return peer.recv(100)[0] == (129 if is_v6 else 0)


def dns(name, _):
    return bool(socket.getaddrinfo(name, 80))


def attempt(line):
    kind, address, port = line.split()
    try:
        said = "yes" if globals()[kind](address, int(port)) else "nonsense"
    except OSError as error:
        said = type(error).__name__ if isinstance(error, TimeoutError) else error.strerror or str(error)
    return f"{kind} {address} {port}: {said}"


with ThreadPoolExecutor(32) as pool:
    for answer in pool.map(attempt, sys.stdin.read().splitlines()):
        print(answer, flush=True)
