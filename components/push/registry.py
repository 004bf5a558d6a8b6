"""Registration of pushed versions in Kubeflow Model Registry, where `push.registry` names one.

Three things are registered: a model per size, a version named by its content, and an artifact with the place of its
files. Each is looked up first and made only where it is missing, so registering again, also after a kill in between,
changes nothing. A registry that does not answer does not undo a push: the failure is printed and recorded, and the next
push registers.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matta_core.errors import UserError
from matta_core.recipe import PushConfig


def check_registry(config: PushConfig) -> None:
    """Check the registry's settings before anything is pushed.

    Raises: UserError where the client is not installed, or the token cannot be read.
    """
    if config.registry is None:
        return
    try:
        import model_registry  # noqa: F401
    except ImportError:
        raise UserError("push.registry needs the package model-registry: pip install 'matta[registry]'") from None
    _token(config)


def register(config: PushConfig, name: str, version: str, uri: str, facts: Mapping[str, Any]) -> str:
    """Register a pushed version, once; return its URL in the registry's API.

    `facts` become the version's properties: strings, whole numbers, floats.
    Raises: UserError where the registry cannot be reached, refuses, or gives no sensible answer.
    """
    try:
        return asyncio.run(_register(config, name, version, uri, facts))
    except Exception as error:  # on an unexpected answer the client raises errors of any kind
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{config.registry} did not register {name} {version}: {reason}") from None


async def _register(config: PushConfig, name: str, version: str, uri: str, facts: Mapping[str, Any]) -> str:
    from model_registry.core import ModelRegistryAPIClient
    from model_registry.types import ModelArtifact, ModelVersion, RegisteredModel
    from mr_openapi import Configuration

    url = str(config.registry).rstrip("/")
    client = ModelRegistryAPIClient(Configuration(host=url, access_token=_token(config)))
    model = await client.get_registered_model_by_params(name)
    if model is None:
        model = await client.upsert_registered_model(RegisteredModel(name=name, owner="matta"))
    registered = await client.get_model_version_by_params(model.id, version)
    if registered is None:
        description = "A student extracted and pushed by MatTA; the version is its content digest's start"
        registered = await client.upsert_model_version(
            ModelVersion(name=version, author="matta", description=description, custom_properties=dict(facts)), model.id
        )
    # An artifact's name must be unique in the whole registry, which the version's alone is not.
    artifact_name = f"{name}-{version}"
    if await client.get_model_artifact_by_params(artifact_name, registered.id) is None:
        artifact = ModelArtifact(
            name=artifact_name, uri=uri, model_format_name="huggingface", model_format_version="safetensors"
        )
        await client.upsert_model_version_artifact(artifact, registered.id)
    return f"{url}/api/model_registry/v1/model_versions/{registered.id}"


def _token(config: PushConfig) -> str | None:
    if config.registry_token_file is None:
        return None
    try:
        return Path(config.registry_token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read push.registry_token_file {config.registry_token_file}: {error}") from None
