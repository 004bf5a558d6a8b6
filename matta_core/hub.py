"""The Hugging Face hub, which keeps its answers below HF_HOME: where it cannot be reached, these are taken at once.

By itself, huggingface_hub tries seven times for each file, six of them with a timeout of 60 seconds that no setting
changes (`_ETAG_RETRY_TIMEOUT`). That is 46 seconds for a checkpoint where names are not resolved, and minutes behind a
firewall that drops packets.
"""

import contextlib
from collections.abc import Iterator
from functools import cache

from huggingface_hub import constants
from huggingface_hub.utils import http_backoff, httpx


@contextlib.contextmanager
def or_what_was_kept() -> Iterator[httpx.TransportError | None]:
    """Where the hub cannot be reached, the body gets kept answers only. Gives the reason.

    The switch is the one behind HF_HUB_OFFLINE=1, which the library reads only when it is imported.
    """
    reason = None if constants.is_offline_mode() else _unreachable(constants.ENDPOINT)
    if reason is None:
        yield None
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before


@cache  # a process asks once
def _unreachable(endpoint: str) -> httpx.TransportError | None:
    """Why the hub gives no answer to either of two tries; None where it gives any.

    A connection is given half of HF_HUB_ETAG_TIMEOUT (10 seconds), an answer all of it.
    """
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    timeout = httpx.Timeout(seconds, connect=seconds / 2)
    try:
        http_backoff("HEAD", endpoint, max_retries=1, retry_on_status_codes=(), timeout=timeout)
    except httpx.TransportError as error:
        return error
    return None
