"""Access to the server: API keys, hashed and compared in constant time; writes by pages of other sites are refused."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from lightcrl.errors import AccessError, DataError, ReadOnlyError

_HASH = re.compile(r"([0-9a-f]{64})(?:\s+\S.*)?")


@final
class Keys:
    """SHA-256 hashes of API keys. Keys are long and random, so a hash does not reveal its key."""

    def __init__(self, hashes: tuple[bytes, ...] = ()) -> None:
        """Take hashes of 32 bytes each; without hashes, no request needs a key."""
        self._hashes = hashes

    def __bool__(self) -> bool:
        return bool(self._hashes)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Return the keys of a file with one hash per line, as `sha256sum` prints it; `#` starts a comment line.

        Raises:
            DataError: the file is unreadable, has no hashes, or has a line of another form.
        """
        make = 'Make one with: printf %s "$KEY" | sha256sum'
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the file of keys {path} cannot be read ({error}).") from None
        hashes = []
        for number, line in enumerate(lines, 1):
            if not line or line.startswith("#"):
                continue
            if (match := _HASH.fullmatch(line.lower())) is None:
                # The line may be the key itself, so the message does not quote it.
                raise DataError(f"{path}:{number} is no hash; expected 64 hexadecimal digits. {make}")
            hashes.append(bytes.fromhex(match[1]))
        if not hashes:
            raise DataError(f"the file of keys {path} has none. {make}")
        return cls(tuple(hashes))

    def check(self, authorization: str | None) -> None:
        """Return if a header `Authorization: Bearer KEY` has one of the keys, or no key is needed.

        Raises:
            AccessError: the header is missing, or has no valid key.
        """
        if not self._hashes:
            return
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        # All keys are compared, so that the time does not reveal which one matches.
        same = [hmac.compare_digest(digest, other) for other in self._hashes]
        if scheme.lower() != "bearer" or not any(same):
            raise AccessError("no key, or one that is not known here; expected the header Authorization: Bearer KEY.")


def check_write(writable: bool, headers: Mapping[str, str]) -> None:
    """Return if a request is allowed to change the index.

    Raises:
        ReadOnlyError: the index is read-only, or the request comes from a page of another site.
    """
    if not writable:
        raise ReadOnlyError("this index is served to be read. Start the server with --writable to change it.")
    check_origin(headers)


def check_origin(headers: Mapping[str, str]) -> None:
    """Return unless the `Origin` header names another site: its page would write with its visitor's rights.

    Raises:
        ReadOnlyError: the request comes from a page of another site.
    """
    origin = headers.get("origin")
    if origin is not None and urlsplit_host(origin) != headers.get("host", "").lower():
        raise ReadOnlyError(f"asked by a page of {origin[:100]!r}, which is not this server's own.")


def urlsplit_host(origin: str) -> str | None:
    """Return host and port of an origin; None for an origin without a host, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
