"""Credentials for Kubeflow: tokens, to which hosts they are sent, and which certificates are trusted."""

import os
import ssl
from pathlib import Path

import urllib3
from kfp import client as kfp_client

from matta_core import hosts
from matta_core.errors import UserError


def host_name(host: str) -> str:
    """The address's host as urllib3, which makes the connection, reads it; '' where it cannot."""
    try:
        return (urllib3.util.parse_url(host).host or "").strip("[]").rstrip(".").lower()
    except urllib3.exceptions.LocationParseError:
        return ""


def keeps_secrets(host: str) -> bool:
    """Whether nobody else can read what is sent there: over https, on this machine, or in the cluster."""
    return hosts.keeps_secrets(host, host_name(host))


def service_accounts_token(host: str) -> Path | None:
    """The file that KF_PIPELINES_SA_TOKEN_PATH names; else, for a host in the cluster only, the projected one."""
    if named := os.environ.get(kfp_client.KF_PIPELINES_SA_TOKEN_ENV):
        return Path(named)
    projected = Path(kfp_client.KF_PIPELINES_SA_TOKEN_PATH)
    return projected if hosts.is_in_cluster(host_name(host)) and projected.is_file() else None


def read_token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token in {file}: {error}; give another --token-file") from None
    if not token or any(character.isspace() for character in token):
        raise UserError(f"{file} must hold one token and nothing else: it is {'not one' if token else 'empty'}")
    return token


def check_certificates(file: Path) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"--ca-cert {file} holds no certificates that can be read ({error}): give a PEM file") from None
