"""Bearer tokens: made of chance, kept as hashes in one YAML file, read again whenever that file changes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from farthing.domain.access import TOKEN_PREFIX, Principal, Scope
from farthing.domain.errors import ConfigError
from farthing.domain.yaml_places import line_of, utc_moment

__all__ = [
    "Token",
    "TokenFile",
    "Tokens",
    "add_token",
    "digest",
    "new_token",
    "put_token",
    "read_tokens",
    "remove_token",
    "write_private",
]

TOKEN_BYTES = 32
PRIVATE_FILE = 0o600
RESERVED = frozenset({"everybody", "intake"})
"""What principals without such a token are called."""
_HEAD = "# Kept by `farthing tokens`. Only hashes are here: a token itself is shown once, when it is added.\n"
_log = logging.getLogger(__name__)


class Token(BaseModel):
    """What is kept of a token; ``sha256`` is of its UTF-8 bytes, in hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._@-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    tenants: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    created: Annotated[datetime, BeforeValidator(utc_moment)]

    @model_validator(mode="after")
    def _tenants_where_they_mean_something(self) -> Token:
        if Scope.READ_TENANT in self.scopes and not self.tenants:
            raise ValueError(f"token {self.name!r} has the scope read-tenant and no tenants; name at least one")
        if self.tenants and Scope.READ_TENANT not in self.scopes:
            raise ValueError(f"token {self.name!r} names tenants without the scope read-tenant; add it, or leave them")
        return self

    @property
    def principal(self) -> Principal:
        """Whom it stands for."""
        return Principal(self.name, frozenset(self.scopes), frozenset(self.tenants))


_LIST = TypeAdapter(tuple[Token, ...])


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a file, found by what a caller sent."""

    by_name: dict[str, Token]
    by_digest: dict[str, Token]

    @classmethod
    def of(cls, tokens: Iterable[Token]) -> Tokens:
        """Raises ConfigError for a name or a hash that is there twice."""
        by_name: dict[str, Token] = {}
        by_digest: dict[str, Token] = {}
        for token in tokens:
            if token.name in by_name or token.sha256 in by_digest:
                raise ConfigError(f"token {token.name!r} is there twice; keep one")
            by_name[token.name] = by_digest[token.sha256] = token
        return cls(by_name, by_digest)

    def find(self, credential: bytes) -> Token | None:
        """The token that a caller sent, or None.

        It is looked up by its hash: how long that takes tells of hashes that the caller cannot choose, not of tokens.
        The hash itself is compared in constant time.
        """
        sent = digest(credential)
        token = self.by_digest.get(sent)
        return token if token is not None and hmac.compare_digest(token.sha256, sent) else None

    def __len__(self) -> int:
        return len(self.by_name)

    def __iter__(self) -> Iterator[Token]:
        return iter(self.by_name.values())


def digest(credential: bytes) -> str:
    """The SHA-256 that is kept of a token; as a token has 256 random bits, a slow hash would add nothing."""
    return hashlib.sha256(credential).hexdigest()


def new_token() -> str:
    """A token of 256 random bits that begins like every one of Farthing's."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def read_tokens(path: Path) -> Tokens | None:
    """The tokens of a file, None when there is no file. Raises ConfigError naming file, line and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: tokens cannot be read ({error}); let this user read the file") from error
    return _parse(text, str(path))


def _parse(text: str, name: str) -> Tokens:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML; write it with `farthing tokens`") from error
    if data is None:
        return Tokens({}, {})
    if not isinstance(data, list):
        raise ConfigError(f"{name}:1: tokens are a list, not {type(data).__name__}; write it with `farthing tokens`")
    try:
        return Tokens.of(_LIST.validate_python(data))
    except ValidationError as error:
        first = error.errors()[0]
        location = tuple(first["loc"])
        key = ".".join(str(part) for part in location)
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{name}:{line_of(root, location)}: {key}: {message}") from None
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


class TokenFile:
    """The tokens of a file as it is now; for one thread.

    What was read last stays in force while the file is broken, away or not readable: nobody gets in by damaging it.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when the file is there and cannot serve."""
        self.path = path
        self._seen = self._stamp()
        self._tokens = read_tokens(path)
        self._complained = False
        self._told: Callable[[Tokens], None] = lambda _: None

    @property
    def now(self) -> Tokens | None:
        """None: there has been no file since the service began, so nobody is asked for a token."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._read_again()
        return self._tokens

    def tell(self, told: Callable[[Tokens], None]) -> None:
        """Let somebody know of the tokens that are in force, and of each that are from now on, before they are."""
        self._told = told
        if self._tokens is not None:
            told(self._tokens)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read_again(self) -> None:
        try:
            tokens = read_tokens(self.path)
            problem = f"{self.path} is gone" if tokens is None and self._tokens is not None else ""
        except ConfigError as error:
            tokens, problem = None, str(error)
        if problem:
            # a service that was open while there was no file must not stay open once there is one
            self._tokens = self._tokens or Tokens({}, {})
            if not self._complained:
                self._complained = True
                _log.error("tokens as they were stay in force: %s", problem)
            return
        self._complained = False
        self._tokens = tokens
        if tokens is not None:
            self._told(tokens)
            _log.info("%d tokens read from %s", len(tokens.by_name), self.path)


def add_token(path: Path, name: str, scopes: Iterable[Scope], tenants: Iterable[str], now: datetime) -> str:
    """A new token of that name, whose hash is in the file now. Raises ConfigError for a name that is taken."""
    plain = new_token()
    with _changing(path) as tokens:
        if name in tokens:
            raise ConfigError(f"{path}: there is a token {name!r}; remove it first, or choose another name")
        tokens[name] = _token(name, plain, scopes, tenants, now)
    return plain


def put_token(path: Path, name: str, plain: str, scopes: Iterable[Scope], now: datetime) -> None:
    """Let ``plain`` be the token of that name, in the place of one that had it."""
    with _changing(path) as tokens:
        token = _token(name, plain, scopes, (), now)
        old = tokens.get(name)
        if old is None or (old.sha256, set(old.scopes)) != (token.sha256, set(token.scopes)):
            tokens[name] = token


def remove_token(path: Path, name: str) -> None:
    """Let a token open nothing from now on. Raises ConfigError when there is none of that name."""
    with _changing(path) as tokens:
        if name not in tokens:
            known = ", ".join(tokens) or "none"
            raise ConfigError(f"{path}: no token {name!r}; there are: {known}")
        del tokens[name]


def _token(name: str, plain: str, scopes: Iterable[Scope], tenants: Iterable[str], now: datetime) -> Token:
    if name in RESERVED:
        raise ConfigError(f"a token cannot be called {name!r}; choose another name")
    try:
        return Token(
            name=name,
            sha256=digest(plain.encode()),
            scopes=tuple(dict.fromkeys(scopes)),
            tenants=tuple(dict.fromkeys(tenants)),
            created=now.astimezone(UTC).replace(microsecond=0),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{key}: {message}" if key else message) from None


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Token]]:
    """The tokens by name, to be changed within the block; the file is replaced as a whole, by one changer at a time.

    Through a link the file is changed that it leads to: others may read it there.
    """
    try:
        path = path.resolve()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise ConfigError(
            f"{path.parent}: tokens cannot be kept there ({getattr(error, 'strerror', error)})"
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        there = read_tokens(path)
        tokens = {} if there is None else dict(there.by_name)
        before = dict(tokens)
        yield tokens
        if there is None or tokens != before:
            write_private(path, _render(Tokens.of(tokens.values())))
    finally:
        os.close(folder)


def _render(tokens: Tokens) -> str:
    entries = []
    for token in tokens:
        entry = token.model_dump(mode="json")
        if not token.tenants:
            del entry["tenants"]
        entries.append(entry)
    return _HEAD + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def write_private(path: Path, text: str, mode: int = PRIVATE_FILE) -> None:
    """Replace a file at once; it keeps the owner and mode that it had, else has ``mode``.

    Raises ConfigError when it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        old = path.stat() if path.exists() else None
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode if old is None else old.st_mode & 0o777)
            if old is not None and os.geteuid() == 0:
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); run this as the file's owner") from error
