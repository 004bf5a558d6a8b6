"""What the commands that talk to Kubeflow share: the connection, and how its errors end them."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Client


@contextlib.contextmanager
def connected(args: argparse.Namespace, usual_namespace: str | None = None) -> Iterator["Client"]:
    """A client by the options of `add_kubeflow_options`; its errors end the command with one line and their status."""
    from pipelines.kubeflow.client import connect
    from pipelines.kubeflow.errors import KubeflowError, errors_explained

    try:
        client = connect(
            args.host,
            namespace=args.namespace,
            usual_namespace=usual_namespace,
            token_file=args.token_file,
            ca_cert=args.ca_cert,
            ui_host=args.ui_host,
        )
        with errors_explained(client.host):
            yield client
    except KubeflowError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_status) from None
