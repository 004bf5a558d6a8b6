"""Scheduled retraining: the example recipe, the DAG on a cluster, and nights that are run here."""

import contextlib
import importlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp import local
from kfp.compiler import Compiler
from page_commands import blocks, commands
from support import byte_tokenizer

from components.common.command_line import DEFAULT_RECIPE, load_recipe
from components.common.storage.open_storage import open_storage
from components.find_data.ledger import read_entry, take_lease
from components.find_data.spans import parse_span
from matta_core.errors import UserError
from matta_core.recipe import RetrainConfig
from pipelines.cluster import load_cluster
from pipelines.dag import build_pipeline
from pipelines.local.retraining import scheduled

RECIPES = DEFAULT_RECIPE.parent
TINY = {
    "prepare_data.max_documents": 40,
    "train_teacher.steps": 8,
    "train.sizes": "{s: 32, xl: 128}",
    "train.steps": 8,
    "train.eval_every_steps": 4,
    "train_teacher.warmup_steps": 1,
    "train.warmup_steps": 1,
    "evaluate.last_token_questions": 10,
    "gate.policy": "{maximum: {matta_bits_per_byte: 20}, non_inferior: {matta_bits_per_byte: 20}, min_documents: 4}",
}


@pytest.fixture
def recipe_file(tmp_path):
    """The smoke recipe, with spans below tmp_path/data."""
    values = yaml.safe_load((RECIPES / "smoke.yaml").read_text())
    del values["prepare_data"]["source"]
    values |= {"name": "nightly", "retrain": {"prefix": str(tmp_path / "data")}, "push": {"target": "pushed"}}
    values["prepare_data"]["tokenizer"] = str(tmp_path / "tokenizer")
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path / "nightly.yaml"


def settings(tmp_path):
    return [f"{key}={value}" for key, value in TINY.items()] + [f"push.target={tmp_path / 'pushed'}"]


def add_span(tmp_path, day):
    """A span of its own text: the beginnings of a third of the standard library's files, another third each day."""
    folder = tmp_path / "data" / f"span=2024-11-{day}"
    folder.mkdir(parents=True)
    library = sorted(Path(json.__file__).parent.parent.glob("*.py"))[day % 3 :: 3]
    lines = [json.dumps({"text": path.read_text(encoding="utf-8")[:1000]}) for path in library]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "_SUCCESS").touch()


def processed(tmp_path):
    return read_entry(open_storage(str(tmp_path / "pushed")), "nightly")


def test_the_nightly_recipe_is_an_example_of_scheduled_retraining():
    recipe = load_recipe(RECIPES / "nightly.yaml")
    assert recipe.retrain.prefix == "data/nightly"
    assert recipe.retrain.files.endswith(".jsonl.gz")
    assert recipe.gate.policy.improve
    assert recipe.gate.policy.non_inferior
    assert recipe.retrain.lease_seconds < 24 * 3600


@pytest.mark.slow
def test_on_a_cluster_all_but_find_data_waits_for_new_data_and_push_for_the_lease(tmp_path):
    recipe = load_recipe(RECIPES / "nightly.yaml")
    Compiler().compile(build_pipeline(recipe, load_cluster(Path("pipelines/clusters/cpu.yaml"))), f"{tmp_path}/a.yaml")
    spec, platform = yaml.safe_load_all((tmp_path / "a.yaml").read_text())
    root = spec["root"]["dag"]["tasks"]
    assert set(root) == {"find-data", "condition-1"}
    condition = root["condition-1"]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--find-data-Output'] != 'none'"
    inputs = root["find-data"]["inputs"]["parameters"]
    assert inputs["run"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"
    assert inputs["scheduled_time"]["componentInputParameter"] == "scheduled_time"
    assert "enableCache" not in root["find-data"]["cachingOptions"]
    inner = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    # Not the report: where that alone fails, what was pushed is noted, and the lease given back.
    assert inner["record-span"]["dependentTasks"] == ["push"]
    assert inner["renew-lease"]["dependentTasks"] == ["extract-students"]
    assert "renew-lease" in inner["plan-evaluation"]["dependentTasks"]
    assert inner["renew-lease-2"]["dependentTasks"] == ["gate"]
    assert "renew-lease-2" in inner["push"]["dependentTasks"]
    for name in ("renew-lease", "renew-lease-2", "record-span"):
        assert "enableCache" not in inner[name]["cachingOptions"]
        same_run = inner[name]["inputs"]["parameters"]["run"]["runtimeValue"]["constant"]
        assert same_run == "{{$.pipeline_job_uuid}}"
    source = inner["prepare-data"]["inputs"]["parameters"]["source"]["componentInputParameter"]
    assert source == "pipelinechannel--find-data-Output"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {"exec-find-data", "exec-renew-lease", "exec-renew-lease-2", "exec-record-span", "exec-train"} <= set(
        executors
    )


@pytest.mark.slow
def test_a_clusters_run_without_new_data_ends_after_find_data(recipe_file, tmp_path, capsys):
    recipe = load_recipe(recipe_file, settings(tmp_path))
    (tmp_path / "data" / "span=2024-11-23").mkdir(parents=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    build_pipeline(recipe)(store=str(tmp_path / "artifacts"))
    printed = capsys.readouterr().out
    assert "this run ends here, with nothing to do: no complete span under" in printed
    assert not (tmp_path / "artifacts").exists()


def test_a_failed_run_gives_its_lease_back_and_leaves_its_span_to_be_processed(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    for error in (UserError("mistake"), KeyboardInterrupt()):
        with pytest.raises(type(error)), scheduled(recipe, tmp_path / "run") as due:
            assert due.prepare_data.source == f"{tmp_path}/data/span=2024-11-23/*.jsonl"
            assert processed(tmp_path)["lease"]["span"] == "span=2024-11-23"
            raise error
        assert processed(tmp_path) == {"lease": None, "processed": []}


def killed_run(recipe_file, tmp_path):
    """A run in tmp_path/run that is killed while it holds the lease."""
    script = (
        "import os, sys; from pathlib import Path; from components.common.command_line import load_recipe\n"
        "from pipelines.local.retraining import scheduled\n"
        "with scheduled(load_recipe(sys.argv[1], sys.argv[3:]), Path(sys.argv[2])): os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, str(recipe_file), str(tmp_path / "run"), *settings(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == -9


@contextlib.contextmanager
def run_in(recipe, output, *, due):
    """A run that begins, or finds that it must not, and is interrupted."""
    with contextlib.suppress(KeyboardInterrupt), scheduled(recipe, output) as begun:
        assert (begun is not None) is due
        yield
        raise KeyboardInterrupt


def test_a_killed_run_takes_its_lease_again_and_another_ones_output_does_not(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    killed_run(recipe_file, tmp_path)
    with run_in(recipe, tmp_path / "other", due=False):
        pass
    killed_run(recipe_file, tmp_path)
    with run_in(recipe, tmp_path / "run", due=True):
        assert processed(tmp_path)["lease"] is not None
    assert processed(tmp_path)["lease"] is None


def test_machines_with_equal_names_and_outputs_do_not_share_a_lease(recipe_file, tmp_path):
    """The other machine's disk is another folder under the same path."""
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    killed_run(recipe_file, tmp_path)
    output, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    output.rename(elsewhere)
    with run_in(recipe, output, due=False):
        pass
    output.rename(tmp_path / "other machine")
    elsewhere.rename(output)
    with run_in(recipe, output, due=True):
        pass


def test_of_copies_of_an_output_only_the_first_to_come_takes_the_lease(recipe_file, tmp_path):
    """Machines made of one image, in which a run has been."""
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    killed_run(recipe_file, tmp_path)
    output = tmp_path / "run"
    shutil.copytree(output, tmp_path / "copy")
    with run_in(recipe, output, due=True):
        output.rename(tmp_path / "first")
        (tmp_path / "copy").rename(output)
        with run_in(recipe, output, due=False):
            pass


@pytest.mark.parametrize("text", ["", "{}", "[7]", "[" * 100_000])
def test_a_damaged_list_of_ids_is_told_with_its_place(recipe_file, tmp_path, text):
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".runs.json").write_text(text)
    with pytest.raises(UserError, match=r"run/.runs.json is not to be believed: .*; delete it, and release the lease$"):
        scheduled(recipe, tmp_path / "run").__enter__()


def test_two_runs_with_one_output_do_not_overlap(recipe_file, tmp_path, capsys):
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    with pytest.raises(KeyboardInterrupt), scheduled(recipe, tmp_path / "run"):
        with scheduled(recipe, tmp_path / "run") as second:
            assert second is None
        assert f"another one is at work in {tmp_path}/run" in capsys.readouterr().out
        assert processed(tmp_path)["lease"] is not None
        raise KeyboardInterrupt


def test_a_recipe_without_retrain_takes_no_lease(tmp_path):
    recipe = load_recipe(RECIPES / "smoke.yaml", [f"push.target={tmp_path / 'pushed'}"])
    with scheduled(recipe, tmp_path / "run") as due:
        assert due is recipe
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nights_with_new_data_retrain_and_others_end_at_once(recipe_file, tmp_path, capfd):
    """The first night as on a cluster, by the DAG with its condition; the others by the command, as from cron."""
    recipe = load_recipe(recipe_file, settings(tmp_path))
    add_span(tmp_path, 23)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    build_pipeline(recipe)(store=str(tmp_path / "artifacts"))
    assert capfd.readouterr().out.count("[renew_lease] run ") == 2
    first = processed(tmp_path)
    assert first["lease"] is None
    assert [done["span"] for done in first["processed"]] == ["span=2024-11-23"]
    assert first["processed"][0]["pushed"] == ["s", "xl"]
    served = (tmp_path / "pushed" / "s" / "current.json").read_bytes()

    def run():
        command = [sys.executable, "-m", "pipelines.matta_pipeline", "run", "--recipe", str(recipe_file)]
        command += ["--output", str(tmp_path / "run")]
        for one in settings(tmp_path):
            command += ["--set", one]
        return subprocess.run(command, capture_output=True, text=True)

    idle = run()
    assert idle.returncode == 0, idle.stderr
    assert "this run ends here, with nothing to do: nothing new: the newest complete span is span=2024-11-23" in (
        idle.stdout
    )
    assert "train" not in idle.stdout.replace("retrain", "")
    assert (tmp_path / "pushed" / "s" / "current.json").read_bytes() == served

    add_span(tmp_path, 24)
    second = run()
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[find_data] span=2024-11-24 is new: 1 files" in second.stdout
    assert "[record_span] span=2024-11-24 is processed; pushed: s, xl" in second.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["students"]["s"]["baseline"] is not None  # compared with what the first night pushed
    assert (tmp_path / "pushed" / "s" / "current.json").read_bytes() != served
    storage = open_storage(str(tmp_path / "pushed"))
    assert [done["span"] for done in processed(tmp_path)["processed"]] == ["span=2024-11-23", "span=2024-11-24"]

    add_span(tmp_path, 25)
    take_lease(storage, "nightly", "on another machine", parse_span("span=2024-11-25"), 1000.0)
    refused = run()
    assert refused.returncode == 0
    assert "another run of 'nightly' is at work: run on another machine (" in refused.stdout


def test_the_pages_commands_and_settings_are_what_the_code_takes(monkeypatch, capsys):
    """Each command of docs/retraining.md gets past its parser, to the recipe that is not there."""
    page = Path(__file__).parents[3] / "docs" / "retraining.md"
    (settings_shown,) = blocks(page, "yaml")
    RetrainConfig.from_dict(yaml.safe_load(settings_shown)["retrain"])
    lines = commands(page)
    assert len(lines) == 5
    for line in lines:
        _, _, module, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        main = importlib.import_module(f"{module}.__main__" if module.startswith("components") else module).main
        with pytest.raises(UserError, match=r"cannot read .*my_(nightly|cluster).yaml"):
            main()
