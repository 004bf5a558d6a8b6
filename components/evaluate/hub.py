"""The Hugging Face hub, which has the tasks' questions: what to do, and what to report, where it cannot be reached.

Every run asks the hub and keeps its answers. On an answer of 5xx or 429, huggingface_hub waits for up to 23 seconds per
task and says so on stderr; after that, the kept answers are taken.
"""

import contextlib
from collections.abc import Iterator

import datasets.config
from huggingface_hub import constants
from huggingface_hub.utils import HfHubHTTPError, httpx

from components.common.step_runner import say
from matta_core import hub


@contextlib.contextmanager
def or_what_was_kept() -> Iterator[httpx.TransportError | None]:
    """As `matta_core.hub.or_what_was_kept`, for data sets, too. Says so, and gives the reason."""
    with hub.or_what_was_kept() as reason:
        if reason is None:
            yield None
            return
        say("evaluate", f"{constants.ENDPOINT} cannot be reached ({reason}): taking what was loaded from it before")
        before = datasets.config.HF_HUB_OFFLINE
        datasets.config.HF_HUB_OFFLINE = True
        try:
            yield reason
        finally:
            datasets.config.HF_HUB_OFFLINE = before


def answer(error: BaseException) -> BaseException:
    """The hub's own answer, where datasets reports only that it found no file."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, HfHubHTTPError):
            return link
        link = link.__cause__ or link.__context__
    return error
