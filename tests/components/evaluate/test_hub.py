"""lm-eval's tasks as users run them online: the step, in a process of its own, loads them from a hub on loopback.

The repositories are laid out as EleutherAI/lambada_openai and hails/agieval-sat-math are on the hub: parquet files that
the card's `configs` name. The Xet protocol, by which the hub also gives such files, is not tried here.
"""

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

import matta_core.hub
from components.evaluate import agieval, catalogue, hub, questions
from matta_core.errors import UserError
from matta_core.recipe import TaskConfig

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the tasks' own files are not at {SHARED}")

LAMBADA, SAT_MATH = "EleutherAI/lambada_openai", "hails/agieval-sat-math"
TASKS = ("lambada_openai", "agieval_sat_math")
AS_DEFINED = {name: {} for name in TASKS}

TEXTS = [{"text": f"return value items {word}"} for word in ("self", "x1", "import", "naïve")]
# The same questions in the hub's form and in AGIEval's own.
QUESTIONS_ON_THE_HUB = [
    {
        "query": f"{passage}Q: What is {n}+1? Answer Choices: (A){n} (B){n + 1} (C)7\n"
        "A: Among A through C, the answer is",
        "choices": [f"(A){n}", f"(B){n + 1}", "(C)7"],
        "gold": [1],
    }
    for n, passage in enumerate(["", "", "A table. ", ""])
]
QUESTIONS_OF_AGIEVAL = [
    {
        "passage": passage,
        "question": f"What is {n}+1?",
        "options": [f"(A){n}", f"(B){n + 1}", "(C)7"],
        "label": "B",
        "other": {"solution": "Count."},
    }
    for n, passage in enumerate(["", None, "A table. ", ""])
]


def repository(files, rows):
    """A card, and a parquet file where its `configs` say: `files` is the pattern in it."""
    configs = {"configs": [{"config_name": "default", "data_files": [{"split": "test", "path": files}]}]}
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    card = f"---\n{yaml.safe_dump(configs)}---\n# Dataset Card\n"
    return {"README.md": card.encode(), files.replace("*", "00000-of-00001.parquet"): content.getvalue()}


def repositories(texts, questions):
    return {
        LAMBADA: repository("default/test/*", texts) | {"data/lambada_test_de.jsonl": b'{"text": "ein Text"}\n'},
        SAT_MATH: repository("data/test-*", questions),
    }


class Run:
    """`python -m components.evaluate`, started at once."""

    def __init__(self, root, output, endpoint, home, tasks, **environment):
        self.output = root / output
        recipe = root / f"{output}.yaml"
        sizes = {
            "last_token_questions": 20,
            "last_token_context": 12,
            "bits_per_byte_documents": 6,
            "bits_per_byte_characters": 300,
            "latency_repeats": 3,
        }
        smoke = yaml.safe_load((ROOT / "pipelines" / "recipes" / "smoke.yaml").read_text())
        changed = {"evaluate": {**sizes, "tasks": tasks}, "push": {"target": str(root / "pushed")}}
        recipe.write_text(yaml.safe_dump(smoke | changed, sort_keys=False))
        inputs = {"recipe": recipe, "dataset": root / "dataset", "students": root / "students"}
        inputs |= {"teacher-checkpoint": root / "teacher", "output": self.output}
        arguments = [text for name, path in inputs.items() for text in (f"--{name}", str(path))]
        unset = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN"}
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "components.evaluate", *arguments],
            cwd=ROOT,
            env=inherited | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self):
        self.stdout, self.stderr = self.process.communicate(timeout=300)
        self.seconds = time.monotonic() - self.started
        return self

    def results(self):
        assert self.process.returncode == 0, self.stderr
        return json.loads((self.output / "results.json").read_text())

    def figures(self):
        """All but latency and memory: what was asked, and what every model gave for it."""
        results = self.results()
        answers = {file.name: file.read_text() for file in sorted((self.output / "documents").iterdir())}
        models = {name: model["tasks"] for name, model in results["models"].items()}
        return results["evaluation_set"], results["tasks"], models, answers

    def retries(self):
        """What huggingface_hub said on the terminal of its waiting; nobody waits without being told."""
        return set(re.findall(r"\[Retry \d/\d\]", self.stderr))

    def mistake(self):
        """The one line that the user is told."""
        assert self.process.returncode == 2, self.stderr
        (line,) = (line for line in self.stderr.splitlines() if line.startswith("error: "))
        assert "Traceback" not in self.stderr
        return line


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_artifacts):
    root = tmp_path_factory.mktemp("hub")
    make_artifacts(root)
    return root


@pytest.fixture(scope="module")
def online(root):
    """A run that loads both tasks from the hub, and what it asked there; the hub is gone after it."""
    with hub_server.serve(repositories(TEXTS, QUESTIONS_ON_THE_HUB)) as server:
        run = Run(root, "online", server.endpoint, root / "home", AS_DEFINED).wait()
        run.endpoint, run.asked = server.endpoint, server.asked
    return run


@pytest.mark.slow
def test_both_tasks_are_loaded_from_the_hub_and_evaluated(online):
    results = online.results()
    for name, rows in {"lambada_openai": TEXTS, "agieval_sat_math": QUESTIONS_ON_THE_HUB}.items():
        assert results["tasks"][name]["questions"] == len(rows)
        assert all(0 <= model["tasks"][name]["value"] <= 1 for model in results["models"].values())
    for repository_name in (LAMBADA, SAT_MATH):
        assert f"asking {online.endpoint} for {repository_name}" in online.stdout
        loaded = [
            path for method, path in online.asked if method == "GET" and path.startswith(f"/lfs/{repository_name}")
        ]
        assert len(loaded) == 1
    assert not any("lambada_test_de" in path for _, path in online.asked)


@pytest.mark.slow
def test_the_same_rows_from_files_give_the_same_figures(root, online):
    files = dict(zip(TASKS, (TEXTS, QUESTIONS_OF_AGIEVAL), strict=True))
    for name, rows in files.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {name: {"data_files": str(root / f"{name}.jsonl")} for name in files}
    offline = Run(root, "offline", "http://127.0.0.1:9", root / "empty", tasks).wait()
    assert offline.figures() == online.figures()
    assert "asking" not in offline.stdout


@pytest.mark.slow
def test_where_the_hub_is_gone_the_questions_are_those_of_the_last_time(root, online):
    gone = Run(root, "gone", online.endpoint, root / "home", AS_DEFINED)
    told_so = Run(root, "told_so", online.endpoint, root / "home", AS_DEFINED, HF_HUB_OFFLINE="1")
    assert gone.wait().figures() == online.figures()
    assert told_so.wait().figures() == online.figures()
    assert f"{online.endpoint} cannot be reached ([Errno 111] Connection refused): taking what was" in gone.stdout
    assert "cannot be reached" not in told_so.stdout
    assert gone.retries() == {"[Retry 1/1]"}  # our own; huggingface_hub's would be five
    assert told_so.retries() == set()


@pytest.mark.slow
def test_a_hub_that_gives_nothing_is_a_mistake_that_names_task_and_remedy(root, tmp_path):
    with (
        hub_server.serve({}) as broken,
        hub_server.serve({}) as no_hub,
        hub_server.serve(repositories(TEXTS, QUESTIONS_ON_THE_HUB)) as lacking,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        broken.failing, no_hub.failing = 500, 404
        lacking.repositories = {LAMBADA: lacking.repositories[LAMBADA]}
        silent_endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cases = {
            "broken": (broken.endpoint, {}, "HfHubHTTPError: Server error '500 Internal Server Error' for url"),
            "no_hub": (no_hub.endpoint, {}, "HfHubHTTPError: Client error '404 Not Found' for url"),
            "lacking": (lacking.endpoint, {}, f"DatasetNotFoundError: Dataset '{SAT_MATH}' doesn't exist on the Hub"),
            "silent": (silent_endpoint, {"HF_HUB_ETAG_TIMEOUT": "2"}, "ReadTimeout: timed out"),
            "refusing": ("http://127.0.0.1:9", {}, "ConnectError: [Errno 111] Connection refused"),
            "not_asked": (lacking.endpoint, {"HF_HUB_OFFLINE": "1"}, f"ConnectionError: Couldn't reach '{LAMBADA}'"),
        }
        runs = {
            name: Run(root, name, endpoint, tmp_path / name, AS_DEFINED, **environment)
            for name, (endpoint, environment, _) in cases.items()
        }
        told = {name: run.wait().mistake() for name, run in runs.items()}
        # Asked once and then with five retries, each told, on top of the first time: huggingface_hub's own way.
        assert len([path for _, path in broken.asked if path.endswith("/README.md")]) == 7
        assert "[Retry 5/5]" in runs["broken"].retries()
        assert runs["silent"].retries() == runs["refusing"].retries() == {"[Retry 1/1]"}
        assert runs["no_hub"].retries() == runs["lacking"].retries() == runs["not_asked"].retries() == set()
    for name, (endpoint, _, reason) in cases.items():
        task, repository_name = ("agieval_sat_math", SAT_MATH) if name == "lacking" else ("lambada_openai", LAMBADA)
        pattern = (
            rf"error: evaluate\.tasks\.{task}: cannot load {repository_name} from {endpoint} "
            rf"\({re.escape(reason)}.*\): .*HF_ENDPOINT.*or give evaluate\.tasks\.{task}\.data_files a local file"
        )
        assert re.fullmatch(pattern, told[name]), told[name]
        assert runs[name].seconds < 300, name  # six at once, on a busy machine; left alone, a silent hub takes 390
        assert not (runs[name].output / "results.json").exists()


def test_the_libraries_are_offline_only_while_the_hub_is_gone(monkeypatch):
    reason = hub.httpx.ConnectError("refused")
    monkeypatch.setattr(matta_core.hub, "_unreachable", lambda endpoint: reason)

    def switches():
        return constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE

    before = switches()
    with pytest.raises(UserError, match="within"), hub.or_what_was_kept() as told:
        assert (told, *switches()) == (reason, True, True)
        raise UserError("within")
    assert switches() == before
    monkeypatch.setattr(matta_core.hub, "_unreachable", lambda endpoint: None)
    with hub.or_what_was_kept() as told:
        assert (told, *switches()) == (None, *before)


@pytest.mark.parametrize("status", [404, 500])
def test_a_hub_that_answers_anything_is_there(monkeypatch, status):
    with hub_server.serve({}) as server:
        server.failing = status
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        with hub.or_what_was_kept() as unreachable:
            assert unreachable is None
    assert ("HEAD", "/") in server.asked


@needs_shared
def test_agievals_own_rows_become_those_on_the_hub():
    """As far as they are published: the bytes that the card of hails/agieval-sat-math states (`num_bytes` of its split,
    which any added or missing character changes), and one row that was found word for word.
    """
    lines = (SHARED / "agieval_sat_math.jsonl").read_text().splitlines()
    rows = [agieval.as_on_the_hub(json.loads(line)) for line in lines]
    schema = pa.schema({"query": pa.string(), "choices": pa.list_(pa.string()), "gold": pa.list_(pa.int64())})
    assert pa.Table.from_pylist(rows, schema).nbytes == 110_388
    assert len(rows) == 220
    assert rows[206]["query"] == (
        r"Q: A company purchased a machine valued at $\$ 120,000$. The value of the machine depreciates by the same "
        r"amount each year so that after 10 years the value will be $\$ 30,000$. Which of the following equations "
        r"gives the value, $v$, of the machine, in dollars, $t$ years after it was purchased for $0 \leq t \leq 10 ?$ "
        r"Answer Choices: (A)$v=30,000-9,000 t$ (B)$v=120,000-9,000 t$ (C)$v=120,000+9,000 t$ (D)$v=120,000-30,000 t$"
        "\nA: Among A through D, the answer is"
    )


@needs_shared
def test_the_local_lambada_file_is_the_one_on_the_hub():
    """Its sha256 is the one that the card of EleutherAI/lambada_openai states."""
    digest = hashlib.sha256((SHARED / "lambada_test.jsonl").read_bytes()).hexdigest()
    assert digest == "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"


DIGEST = """
import sys
from pathlib import Path
from components.evaluate import catalogue, questions
from matta_core.recipe import TaskConfig
tasks = catalogue.load_tasks({name: TaskConfig(limit=300) for name in sys.argv[2:]}, Path(sys.argv[1]))
print(questions.build(tasks).digest)
"""


@needs_shared
@pytest.mark.slow
def test_real_rows_from_the_hub_are_the_questions_of_their_files(tmp_path):
    """All 5,153 and 220 are loaded; of the first 300 of each, all that a model is shown is the same. They are not
    answered: the models of these tests see too few tokens.
    """
    texts = [json.loads(line) for line in (SHARED / "lambada_test.jsonl").read_text().splitlines()]
    lines = (SHARED / "agieval_sat_math.jsonl").read_text().splitlines()
    rows = [agieval.as_on_the_hub(json.loads(line)) for line in lines]
    on_the_hub = [{key: row[key] for key in ("query", "choices", "gold")} for row in rows]
    with hub_server.serve(repositories(texts, on_the_hub)) as server:
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", DIGEST, str(tmp_path / "work"), *TASKS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    files = dict(zip(TASKS, ("lambada_test", "agieval_sat_math"), strict=True))
    configs = {name: TaskConfig(limit=300, data_files=str(SHARED / f"{file}.jsonl")) for name, file in files.items()}
    from_files = questions.build(catalogue.load_tasks(configs, tmp_path / "files"))
    assert len(from_files.questions) == 300 + 220
    assert done.stdout.splitlines()[-1] == from_files.digest
