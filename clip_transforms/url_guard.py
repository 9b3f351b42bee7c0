"""What urls that come from data may reach: public addresses only, and schemes of an allow-list.

A url in a manifest, a url list or a web page's redirect is written by a stranger. Left alone it could make a worker
read its own cloud's metadata server (169.254.169.254), a service on the local network, or a file of the worker, and
publish what it found. So by default http(s) requests for images reach only public addresses, checked on the address
that is connected to (`clip_transforms.guarded_client`), and only the schemes below are opened.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from clip_transforms.client_options import HTTP
from clip_transforms.elements import Reason
from clip_transforms.fetch_errors import FetchProblem
from clip_transforms.filesystems import is_chain, protocol_of

#: Opened without being asked for: http(s), object stores, the process's own memory, and files. Whether a manifest
#: may name files is for `reference_problem` to say.
SCHEMES = HTTP | {
    *("file", "memory", "gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "wasb", "wasbs"),
    *("oss", "oci", "obs", "hf"),
}
_MEND = "--allow-private-urls lets it"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Blocked beyond what the ipaddress module knows, whose lists differ between Python's versions.
_MORE = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",  # Azure's host agent, at a public number
        *("100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "fec0::/10", "ff00::/8"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; an IPv6 form of an IPv4 address counts as that one.

    >>> [is_public(a) for a in ("93.184.216.34", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1")]
    [True, False, False, False, False]
    >>> is_public("::ffff:127.0.0.1"), is_public("64:ff9b::5db8:d822"), is_public("2606:4700::1111")
    (False, True, True)
    """
    try:
        found: _Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    inner = _inner(found)
    if inner is not None:
        return all(is_public(str(each)) for each in inner)
    if any(found in network for network in _MORE if network.version == found.version):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def literal_address(host: str) -> str | None:
    """The address that a host spells out, in whatever way; None where it is a name.

    >>> [literal_address(host) for host in ("0x7f.1", "2130706433", "0177.0.0.1", "[::1]", "example.org")]
    ['127.0.0.1', '127.0.0.1', '127.0.0.1', '::1', None]
    """
    bare = host.strip("[]").rstrip(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(bare)) if bare and bare[0].isdigit() else None
    except OSError:
        return None


def check_url(url: str, *, schemes: Iterable[str] = ()) -> None:
    """Raise FetchProblem (blocked_address) for a url whose scheme is not allowed. Resolves no name.

    schemes: allowed beyond SCHEMES, for example those that `--input` itself names. In a chain (`zip://a::s3://b`)
    every link's scheme must be allowed, and none may be http(s), whose client is not guarded there.
    """
    chained = is_chain(url)
    for link in url.split("::") if chained else [url]:
        scheme = protocol_of(link if "://" in link else f"{link}://")
        if chained and scheme in HTTP:
            raise FetchProblem(Reason.BLOCKED_ADDRESS, f"{scheme} inside a chain of urls; {_MEND}")
        if scheme not in SCHEMES and scheme not in schemes and _is_known(scheme):
            raise FetchProblem(
                Reason.BLOCKED_ADDRESS, f"urls of the scheme {scheme!r} are not opened; {_MEND}"
            )


def schemes_of(urls: Iterable[str]) -> tuple[str, ...]:
    """The schemes that urls are made of, sorted; chains have several.

    >>> schemes_of(["sftp://h/a", "zip://*.jpg::s3://b/x.zip", "photos"])
    ('file', 's3', 'sftp', 'zip')
    """
    links = [link for url in urls for link in (url.split("::") if is_chain(url) else [url])]
    return tuple(sorted({protocol_of(link) for link in links}))


def reference_problem(target: str, *, base: str) -> str | None:
    """Why a manifest at `base` may not name `target`; None where it may: the web names no files of the reader.

    >>> reference_problem("file:///etc/passwd", base="https://host/list.txt")
    'leads from the web to a local file'
    >>> reference_problem("/data/a.jpg", base="/data/list.txt")
    """
    from_web = any(protocol_of(link) in HTTP for link in base.split("::"))
    inner = any(scheme in ("file", "memory") for scheme in schemes_of([target]))
    return "leads from the web to a local file" if from_web and inner else None


def blocked() -> FetchProblem:
    """The problem of a request to an address that is not public; names neither."""
    return FetchProblem(Reason.BLOCKED_ADDRESS, f"leads to a private address; {_MEND}")


def _inner(address: _Address) -> tuple[ipaddress.IPv4Address, ...] | None:
    """The IPv4 addresses inside an IPv6 one: mapped, 6to4, Teredo (server and client) and NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),) if address in _NAT64 else None


def _is_known(scheme: str) -> bool:
    """Whether fsspec could open it at all; what it could not is a bad name, and said so later."""
    from fsspec.registry import known_implementations, registry

    return scheme in known_implementations or scheme in registry
