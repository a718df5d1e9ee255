"""What was found out lately and need not be asked again."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

# Seconds that anything is kept. A key names the revision of what was read, so nothing gets old in
# here; but a database that is restored has the same revisions twice.
MAX_AGE = 30.0


class Recent(Generic[T]):
    """The values of the `size` keys that were used last."""

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        found = self._kept.get(key)
        if found is None:
            return None
        end, value = found
        if self._clock() > end:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def keep(self, key: Hashable, value: T) -> None:
        self._kept[key] = self._clock() + MAX_AGE, value
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
