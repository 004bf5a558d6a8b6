"""Writes text into Markdown so that it is shown as it is."""

import re


def escape(text: str) -> str:
    """The text in one line, without a meaning to Markdown or HTML."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text)
    return re.sub(r"([\\`*_\[\]<>|#~]|&(?=#?\w+;))", r"\\\1", text)


def code(text: str) -> str:
    """The text as code in one line. If it holds what would end the code, it stays text."""
    return escape(text) if re.search(r"[`|\r\n]", text) or not text.strip() else f"`{text}`"
