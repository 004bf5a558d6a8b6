"""A stand-in for Kubeflow Pipelines' API server: the v2beta1 calls that submit and schedule make, over real HTTP(S).

It keeps state, checks every body against the official models of kfp_server_api (unknown fields and wrong types are
refused) and every uploaded pipeline against kfp's protos, answers with what those models serialise to, in small
pages, and fails on request. What it refuses follows the messages of the real server's sources (backend/src/apiserver).
"""

from kfp_server.http import serving
from kfp_server.models import RefusedError, parse
from kfp_server.rules import Fault, KubeflowServer
from kfp_server.runs import driver, frame, loop, step

__all__ = ["Fault", "KubeflowServer", "RefusedError", "driver", "frame", "loop", "parse", "serving", "step"]
