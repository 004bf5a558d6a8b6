"""Where ranks are launched is checked before they are; what they say is told apart, and the first failure found."""

import json
import subprocess
import sys

import pytest

from components.common.launching.config import LaunchConfig
from components.common.launching.launch import run_ranks
from components.common.launching.ranks import RankLog, failure_in
from components.train.component import train as wrapper
from matta_core.errors import TrainingDivergedError, UserError

# What torchrun of torch 2.13 prints where rank 1 of 4 was killed, and torch's own traceback before it.
KILLED = """[rank 0]: [train] started
[rank 1]: loading
[rank 0]: {bar}[rank 1]: second
E1124 13:30:42.800000 22394 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -9) local_rank: 1
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
components.train FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-24_13:30:42
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 22486) 
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 22486
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_13:30:42
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 22485) 
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 22485
============================================================"""  # noqa: W291


def test_the_first_failing_rank_is_found_with_its_own_lines():
    failure = failure_in(KILLED.splitlines(), 1)
    assert (failure.rank, failure.exit_code, failure.tail) == (1, -9, "loading\nsecond")
    assert str(failure.error("in this pod")) == (
        "rank 1 was killed by SIGKILL (often: out of memory) in this pod. The end of its log:\nloading\nsecond"
    )


def test_a_torchrun_that_fails_by_itself_shows_its_own_end():
    failure = failure_in(["torch.distributed.DistNetworkError: no route to host"], 1)
    assert failure.rank is None
    assert str(failure.error("here")).startswith("torchrun ended with status 1 here. The end of its log:\ntorch.dist")


@pytest.mark.parametrize(
    ("exit_code", "line", "error"),
    [(2, "error: a\n  b", UserError), (3, "diverged: in step 7", TrainingDivergedError)],
)
def test_a_ranks_own_error_is_the_steps(exit_code, line, error):
    lines = [f"[rank 1]: {part}" for part in line.splitlines()]
    failure = failure_in([*lines, *KILLED.replace("exitcode  : -9", f"exitcode  : {exit_code}").splitlines()[4:]], 1)
    raised = failure.error("here")
    assert type(raised) is error
    assert str(raised) == line.splitlines()[0].partition(": ")[2]


def test_rank_0_is_shown_as_it_is_and_the_others_by_their_number():
    log = RankLog()
    assert log.add("[rank 0]: [train] started\n") == ["[train] started"]
    assert log.add("[rank 12]: hello\n") == ["[rank 12]: hello"]
    assert log.add("[rank 0]: train 10%|#  |[rank 0]: \n") == ["train 10%|#  |"]
    assert log.add("torchrun's own\n") == ["torchrun's own"]


def test_several_nodes_without_a_shared_volume_are_refused():
    config = LaunchConfig(nodes=2, image="i")
    with pytest.raises(UserError, match=r"launch_config\.claims is empty, but nodes = 2.*Name it under `volumes`"):
        run_ranks(config, ["components.train"], name="n", work="/store/train-1", paths=["/store/train-1"])


def test_artifacts_off_the_shared_volume_are_refused(two_nodes):
    with pytest.raises(UserError, match=r"/tmp/scores is on none of the volumes that the 2 nodes share \(/store\)"):
        run_ranks(
            two_nodes, ["components.train"], name="n", work="/store/train-1", paths=["/store/train-1", "/tmp/scores"]
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "launch_config.nodes must be >= 1 and <= 10000, got 0"),
        ({"nodes": 2}, "launch_config.image must be set where nodes = 2"),
        ({"accelerators": 8}, "accelerator and accelerators must be set together, got '' and 8"),
        (
            {"claims": [{"claim": "c", "mount_path": "store"}]},
            r"launch_config.claims\[0\].mount_path must be an absolute",
        ),
        (
            {"claims": [{"claim": "c", "mount_path": "/store/../etc"}]},
            r"claims\[0\].mount_path must be an absolute path without \.\., : and braces, got '/store/../etc'",
        ),
        ({"secrets": [{"secret": "A b", "key": "k", "env": "X"}]}, r"secrets\[0\].secret must be a Secret's name"),
        (
            {"accelerator": "'; rm -rf /", "accelerators": 1},
            "launch_config.accelerator must be a resource's name, such",
        ),
        ({"gpus": 8}, "unknown setting launch_config.gpus"),
    ],
)
def test_a_wrong_launch_config_is_told_with_its_place(values, message):
    with pytest.raises(UserError, match=message):
        LaunchConfig.from_json(json.dumps(values), "launch_config")


def test_the_wrapper_takes_it_as_one_json_string_and_by_default_trains_in_its_own_process():
    (parameter,) = [value for name, value in wrapper.component_spec.inputs.items() if name == "launch_config"]
    assert parameter.type == "String"
    assert parameter.default == ""


def test_the_compiler_needs_neither_torch_nor_a_cluster_client_for_it():
    code = (
        "import sys, components.common.launching.config; print({'torch', 'kubernetes', 'kubeflow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
