"""The Hugging Face hub, which has the tasks' questions: what to do, and what to report, where it cannot be reached.

Every run asks the hub and keeps its answers below HF_HOME. On an answer of 5xx or 429, huggingface_hub waits for up to
23 seconds per task and says so on stderr; after that, the kept answers are taken.
"""

import contextlib
from collections.abc import Iterator

import datasets.config
from huggingface_hub import constants
from huggingface_hub.utils import HfHubHTTPError, http_backoff, httpx

from components.common.step_runner import say


@contextlib.contextmanager
def or_what_was_kept() -> Iterator[httpx.TransportError | None]:
    """Where the hub cannot be reached, make datasets take the kept answers at once. Gives the reason.

    By itself, huggingface_hub tries seven times for each data set, six of them with a timeout of 60 seconds that no
    setting changes (`_ETAG_RETRY_TIMEOUT`). Behind a firewall that drops packets, that is more than six minutes per
    task; here it is three times HF_HUB_ETAG_TIMEOUT (10 seconds), once. The switch is the one behind HF_HUB_OFFLINE=1,
    which the libraries read only when they are imported.
    """
    reason = None if constants.is_offline_mode() else _unreachable()
    if reason is None:
        yield None
        return
    say("evaluate", f"{constants.ENDPOINT} cannot be reached ({reason}): taking what was loaded from it before")
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _unreachable() -> httpx.TransportError | None:
    try:
        http_backoff(
            "HEAD", constants.ENDPOINT, max_retries=2, retry_on_status_codes=(), timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except httpx.TransportError as error:
        return error
    return None


def answer(error: BaseException) -> BaseException:
    """The hub's own answer, where datasets reports only that it found no file."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, HfHubHTTPError):
            return link
        link = link.__cause__ or link.__context__
    return error
