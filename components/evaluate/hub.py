"""The Hugging Face hub, from which a task's questions come: what to do where it is not there, and what to tell.

The hub is asked at every run, and what it gives is kept below HF_HOME. An answer of 5xx or 429 is waited out by
huggingface_hub, for 23 seconds per task, and told on stderr; after that, what was kept is taken.
"""

import contextlib
from collections.abc import Iterator

import datasets.config
from huggingface_hub import constants
from huggingface_hub.utils import HfHubHTTPError, http_backoff, httpx

from components.common.step_runner import say


@contextlib.contextmanager
def or_what_was_kept() -> Iterator[httpx.TransportError | None]:
    """Where the hub cannot be reached, have datasets take what was kept of it, at once; gives the reason.

    Left alone, huggingface_hub tries seven times for each data set, six of them with a timeout of 60 seconds that no
    setting changes (`_ETAG_RETRY_TIMEOUT`): more than six minutes per task where a firewall drops what is sent. Here it
    is three times HF_HUB_ETAG_TIMEOUT (10 seconds), once. The switch is the one that HF_HUB_OFFLINE=1 turns, which is
    read only when the libraries are imported.
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
    """What the hub answered, where datasets tells only that it found no file."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, HfHubHTTPError):
            return link
        link = link.__cause__ or link.__context__
    return error
