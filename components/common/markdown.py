"""Writes text into Markdown so that it is shown as it is."""

import re


def escape(text: str) -> str:
    """The text in one line, with everything escaped that Markdown or HTML would interpret."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    return re.sub(r"([\\`*_\[\]<>|#~]|&(?=#?\w+;))", r"\\\1", text)


def code(text: str) -> str:
    """The text as code; as plain text where it holds something that would end the code."""
    return escape(text) if re.search(r"[`|\r\n]", text) or not text.strip() else f"`{text}`"
