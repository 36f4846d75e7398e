"""Rules for addresses given by servers: redirects, and the files listed in AlphaFold DB's response.

An address in a list or in the configuration is always requested. One that a server gives is followed only if

- it is http or https, and
- its site is in the list or the configuration, is the requested site or a part of it (``files.x.org`` of ``x.org``, and
  vice versa), or belongs to one of the `ARCHIVES`, and
- it does not lead to a loopback, private or link-local address, neither literally nor by name resolution, unless the
  list or the configuration contains the same host and port (80 and 443 count as one).

A line of a list that is an address without a path (``https://files.example.org``) is not a download: it allows
redirects to that site.
"""

import http.client
import ipaddress
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

ARCHIVES = ("rcsb.org", "wwpdb.org", "ebi.ac.uk", "pdbj.org", "alphafold.com")
SCHEMES = ("http", "https")
_USUAL_PORTS = (80, 443, None)
_LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal")


class RefusedError(Exception):
    """A server gave an address that is not followed; the message says which and why."""


def site_of(address: str) -> tuple[str, int] | None:
    """Host and port (0 for the default ones) of an http or https address; None for anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in SCHEMES or not parts.hostname:
        return None
    return parts.hostname.rstrip("."), 0 if port in _USUAL_PORTS else port


def names_site(text: str) -> bool:
    """Whether a line of a list is a site: an address without a path."""
    if site_of(text) is None:
        return False
    parts = urlsplit(text)
    return parts.path in ("", "/") and not parts.query


@dataclass(frozen=True)
class Sites:
    """The sites in a list and in the configuration."""

    named: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, addresses: Iterable[str]) -> "Sites":
        """The sites of addresses."""
        return cls(frozenset(site for site in map(site_of, addresses) if site is not None))

    def check(self, address: str, asked: str) -> None:
        """Raise RefusedError if ``address``, given by the server of the address ``asked``, must not be followed."""
        site = site_of(address)
        if site is None or not _is_plain(address):
            raise RefusedError(f"the server refers to {_short(address)}, which is not a plain http or https address")
        if site in self.named:
            return
        if is_private(site[0]):
            raise RefusedError(f"the server refers to {_short(address)}, a loopback or private address")
        known = {host for host, _ in self.named} | {(site_of(asked) or ("", 0))[0], *ARCHIVES}
        if not any(_one_within_the_other(site[0], host) for host in known):
            raise RefusedError(
                f"the server refers to {_short(address)}, which is on another site; to allow it, add the line "
                f"{_short('https://' + site[0])} to the list"
            )

    def opener(self, asked: str) -> urllib.request.OpenerDirector:
        """Opener for ``asked`` that follows only allowed redirects."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            _Http(self),
            _Https(self),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(self, asked),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener


def _is_plain(address: str) -> bool:
    """Whether an address is free of user names, escapes in its host, white space and control characters."""
    host = urlsplit(address).netloc
    return not any(mark in host for mark in "@%\\") and address.isprintable() and " " not in address


def is_private(host: str) -> bool:
    """Whether a host is an address outside the public internet, or a name for one."""
    if host in _LOCAL_NAMES or host.endswith(_LOCAL_NAMES[1:]):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return not address.is_global or address.is_multicast


def _one_within_the_other(host: str, other: str) -> bool:
    host, other = host.removeprefix("www."), other.removeprefix("www.")
    shorter, longer = sorted((host, other), key=len)
    return host == other or "." in shorter and longer.endswith(f".{shorter}")


def _short(address: str) -> str:
    return repr(address[:200])


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Checks each address before it is followed."""

    def __init__(self, sites: Sites, asked: str) -> None:
        self._sites, self._asked = sites, asked

    def http_error_302(self, req, fp, code, msg, headers):  # noqa: ANN001, ANN201
        location = headers.get("location") or headers.get("uri")
        if location:
            try:
                self._sites.check(urljoin(req.full_url, location), self._asked)
            except RefusedError:
                fp.close()
                raise
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Guarded:
    """Closes a connection to a loopback or private address before anything is sent."""

    guarded = False

    def connect(self) -> None:
        super().connect()
        peer = self.sock.getpeername()[0]
        if self.guarded and is_private(peer):
            self.close()
            raise RefusedError(f"the server refers to {_short(self.host)} ({peer}), a loopback or private address")


class _HttpConnection(_Guarded, http.client.HTTPConnection):
    pass


class _HttpsConnection(_Guarded, http.client.HTTPSConnection):
    pass


def _connection(kind: type, sites: Sites, request: urllib.request.Request):  # noqa: ANN202
    # A proxy's address does not tell the destination of the request.
    direct = request.host == urlsplit(request.full_url).netloc
    guarded = direct and site_of(request.full_url) not in sites.named

    def make(host: str, **options):  # noqa: ANN003, ANN202
        connection = kind(host, **options)
        connection.guarded = guarded
        return connection

    return make


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sites: Sites) -> None:
        super().__init__()
        self._sites = sites

    def http_open(self, req):  # noqa: ANN001, ANN201
        return self.do_open(_connection(_HttpConnection, self._sites, req), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sites: Sites) -> None:
        super().__init__()
        self._sites = sites

    def https_open(self, req):  # noqa: ANN001, ANN201
        return self.do_open(_connection(_HttpsConnection, self._sites, req), req, context=self._context)
