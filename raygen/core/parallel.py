"""Calls a function for many items at once, where each call waits for a storage most of its time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16
"""Calls in flight: object stores answer each after tens of milliseconds, but many concurrently."""


def parallel(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE
) -> Iterator[Result]:
    """Yield the results of a function for items, in their order, from a few threads.

    Memory is bounded: no more than `at_once` results are computed ahead.

    Raises: the first error in the items' order; no further calls begin then.
    """
    with ThreadPoolExecutor(at_once) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) >= at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for call in ahead:
                call.cancel()


def for_each(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function for all items, as `parallel` does. Raises: the first error."""
    for _ in parallel(function, items):
        pass
