"""The engine's memories: KV-cache blocks with shared prefixes, and the encoder's outputs.

After vLLM's v1 ``KVCacheManager`` and ``EncoderCacheManager``: blocks of a prefix stay after their last user is
gone and are evicted, least recently used first, when blocks are needed.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Chain", "EncoderCache", "KvCache"]


class Chain:
    """The leading blocks of one text that are resident, and how many sequences use them."""

    __slots__ = ("blocks", "key", "users")

    def __init__(self, key: str) -> None:
        self.key = key
        self.blocks = 0
        self.users = 0


class KvCache:
    """Blocks: private ones of sequences and those of chains. Never holds more than ``total``."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        """Private and chained blocks, idle chains included."""
        self.idle_blocks = 0
        """Blocks of chains that nobody uses: they go first."""
        self._chains: dict[str, Chain] = {}
        self._idle: OrderedDict[str, Chain] = OrderedDict()

    @property
    def pinned(self) -> int:
        """Blocks that cannot be evicted."""
        return self.used - self.idle_blocks

    def chain(self, key: str) -> Chain:
        """The chain of a text, empty at first."""
        found = self._chains.get(key)
        if found is None:
            found = self._chains[key] = Chain(key)
        return found

    def pin(self, chain: Chain) -> None:
        """A sequence begins to use a chain."""
        if chain.users == 0 and self._idle.pop(chain.key, None) is not None:
            self.idle_blocks -= chain.blocks
        chain.users += 1

    def unpin(self, chain: Chain) -> None:
        """A sequence uses a chain no more; the last one leaves it idle."""
        chain.users -= 1
        if chain.users == 0:
            self._idle[chain.key] = chain
            self.idle_blocks += chain.blocks

    def take(self, blocks: int) -> bool:
        """Whether ``blocks`` more could be had, evicting idle chains where necessary."""
        if self.used + blocks > self.total:
            if self.pinned + blocks > self.total:
                return False
            self._evict(self.used + blocks - self.total)
        self.used += blocks
        return True

    def give(self, blocks: int) -> None:
        """Private blocks come back."""
        self.used -= blocks

    def _evict(self, blocks: int) -> None:
        while blocks > 0:
            key, chain = next(iter(self._idle.items()))
            dropped = min(blocks, chain.blocks)
            # from the end: a chain without its beginning is worth nothing
            chain.blocks -= dropped
            self.used -= dropped
            self.idle_blocks -= dropped
            blocks -= dropped
            if chain.blocks == 0:
                del self._idle[key]
                del self._chains[key]


class EncoderCache:
    """Encoder outputs by image, in tokens; those that no sequence needs any more stay until room is needed."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.idle_tokens = 0
        self._tokens: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()

    def has(self, image: str) -> bool:
        """Whether an image's output is there."""
        return image in self._tokens

    def idle(self, image: str) -> bool:
        """Whether it is there and nobody needs it."""
        return image in self._idle

    def fits(self, tokens: int) -> bool:
        """Whether this much more could be in use."""
        return self.used - self.idle_tokens + tokens <= self.total

    def hold(self, image: str) -> bool:
        """Use an image's output if it is there."""
        if image not in self._tokens:
            return False
        self._users[image] += 1
        self.idle_tokens -= self._idle.pop(image, 0)
        return True

    def add(self, image: str, tokens: int) -> None:
        """Use an image's new output, evicting what nobody needs; ``fits`` says whether there can be room."""
        while self.used + tokens > self.total:
            old, size = self._idle.popitem(last=False)
            del self._tokens[old], self._users[old]
            self.idle_tokens -= size
            self.used -= size
        self._tokens[image] = tokens
        self._users[image] = 1
        self.used += tokens

    def release(self, image: str) -> None:
        """A sequence needs an image's output no more."""
        self._users[image] -= 1
        if self._users[image] == 0:
            self._idle[image] = self._tokens[image]
            self.idle_tokens += self._tokens[image]
