"""Who may ask, and who may change: API keys, hashed and compared in constant time; pages of other sites are refused."""

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
    """The keys of a file, as SHA-256 hashes: keys are long and random, so a hash does not give them away."""

    def __init__(self, hashes: tuple[bytes, ...] = ()) -> None:
        """Take hashes of 32 bytes; with none, everyone may ask."""
        self._hashes = hashes

    def __bool__(self) -> bool:
        return bool(self._hashes)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys of a file with a hash a line, as `sha256sum` prints it; `#` begins a comment.

        Raises:
            DataError: it cannot be read, has no hashes, or something else than hashes.
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
                # The line may be the key itself, so it is not repeated.
                raise DataError(f"{path}:{number} is no hash; expected 64 hexadecimal digits. {make}")
            hashes.append(bytes.fromhex(match[1]))
        if not hashes:
            raise DataError(f"the file of keys {path} has none. {make}")
        return cls(tuple(hashes))

    def check(self, authorization: str | None) -> None:
        """Return if a header `Authorization: Bearer KEY` has one of the keys, or none is needed.

        Raises:
            AccessError: it has not.
        """
        if not self._hashes:
            return
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        # All of them are compared, so that time tells nothing.
        same = [hmac.compare_digest(digest, other) for other in self._hashes]
        if scheme.lower() != "bearer" or not any(same):
            raise AccessError("no key, or one that is not known here; expected the header Authorization: Bearer KEY.")


def check_write(writable: bool, headers: Mapping[str, str]) -> None:
    """Return if an index may be changed by a request.

    Raises:
        ReadOnlyError: it is served to be read, or a page of another site asks.
    """
    if not writable:
        raise ReadOnlyError("this index is served to be read. Start the server with --writable to change it.")
    check_origin(headers)


def check_origin(headers: Mapping[str, str]) -> None:
    """Return unless a browser says that a page of another site asks: it could do so with its visitor's rights.

    Raises:
        ReadOnlyError: one does.
    """
    origin = headers.get("origin")
    if origin is not None and urlsplit_host(origin) != headers.get("host", "").lower():
        raise ReadOnlyError(f"asked by a page of {origin[:100]!r}, which is not this server's own.")


def urlsplit_host(origin: str) -> str | None:
    """Host and port of an origin; None of what is none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
