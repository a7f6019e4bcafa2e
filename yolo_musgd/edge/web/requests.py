"""Requests as bytes to requests as values, and who may ask: limits, host names, the token. Nothing here waits."""

import hmac
import json
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple
from urllib.parse import parse_qs, urlsplit

HEAD_BYTES = 8192  # of a request's line and headers
HEADERS = 64
BODY_BYTES = 1024
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "edge_token"


class Refusal(Exception):  # noqa: N818 - it reads as what happened
    """A request that is answered with an error: ``Refusal(status, words)``."""

    def __init__(self, status: int, words: str) -> None:
        Exception.__init__(self, words)
        self.status = status


class Request(NamedTuple):
    """A whole request."""

    method: str
    path: str
    query: Dict[str, str]
    headers: Dict[str, str]  # names in lower case
    body: bytes


def parse(data: bytearray) -> Optional[Request]:
    """Read a request from what has come so far; None where more must come.

    Raises:
        Refusal: It is too large, or no HTTP request.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > HEAD_BYTES:
            raise Refusal(431, "headers of more than {} bytes".format(HEAD_BYTES))
        return None
    if end > HEAD_BYTES:
        raise Refusal(431, "headers of more than {} bytes".format(HEAD_BYTES))
    line, _, rest = bytes(data[:end]).decode("latin-1").partition("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not re.match(r"HTTP/1\.[01]$", words[2]) or not words[1].startswith("/"):
        raise Refusal(400, "no HTTP/1.1 request")
    headers = _headers(rest)
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not re.match(r"[0-9]{1,9}$", length):
        raise Refusal(411, "a body needs a Content-Length")
    if int(length) > BODY_BYTES:
        raise Refusal(413, "a body of more than {} bytes".format(BODY_BYTES))
    body = bytes(data[end + 4 : end + 4 + int(length)])
    if len(body) < int(length):
        return None
    try:
        address = urlsplit(words[1])
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
    except (ValueError, TypeError):
        raise Refusal(400, "no address")
    return Request(words[0], address.path, query, headers, body)


def _headers(text: str) -> Dict[str, str]:
    lines = text.split("\r\n") if text else []
    if len(lines) > HEADERS:
        raise Refusal(431, "more than {} headers".format(HEADERS))
    found = {}  # type: Dict[str, str]
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+$", name):
            raise Refusal(400, "a bad header")
        if name.lower() in found and name.lower() in ("content-length", "host"):
            raise Refusal(400, "{} twice".format(name))
        found[name.lower()] = value.strip()
    return found


def check(request: Request, token: Optional[str]) -> None:
    """Let in who has the token; without one, who asks for this very machine.

    A foreign page whose name was made to point here asks for that name.

    Raises:
        Refusal: Who may not.
    """
    if token is None:
        if re.sub(r":[0-9]+$", "", request.headers.get("host", "localhost")).lower() not in LOOPBACK:
            raise Refusal(403, "this server answers to localhost only")
        return
    if not any(hmac.compare_digest(given.encode(), token.encode()) for given in tokens(request)):
        raise Refusal(401, "the token is missing or wrong; open the address that was printed at the start")


def tokens(request: Request) -> Tuple[str, ...]:
    """Return the tokens that a request brings: as a header, as a cookie, in the address."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    cookies = dict(part.strip().partition("=")[::2] for part in request.headers.get("cookie", "").split(";"))
    return (bearer if scheme.lower() == "bearer" else "", cookies.get(COOKIE, ""), request.query.get("token", ""))


def new_conf(request: Request) -> float:
    """Return the threshold that a POST asks for.

    JSON by its type too: another site's page cannot send that without asking first, and is not answered.

    Raises:
        Refusal: None in [0, 1].
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "Content-Type must be application/json")
    try:
        content: Any = json.loads(request.body.decode())
        value = content["conf"]
        if isinstance(value, bool) or not 0.0 <= value <= 1.0:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refusal(400, 'expected {"conf": 0.25}, a number in [0, 1]')
    return float(value)
