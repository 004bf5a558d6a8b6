"""The hand-over: an InferenceService that KServe's schema allows, and a card that Hugging Face's tools read."""

import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from support import byte_tokenizer, tiny_gpt2

from components.common.storage.open_storage import open_storage
from components.push import serving
from matta_core.checkpoints import save_model
from matta_core.errors import UserError
from matta_core.recipe import ServingConfig

VERSION, DIGEST = "0123456789abcdef", "0123456789abcdef" * 4

# The fields that we use, of serving.kserve.io/v1beta1. On 2026-11-24 the manifests of a smoke run were walked through
# the typed models of the kserve package 0.21.0, which does not install beside our pins: each field is known there, with
# its type. The name's and the URI's forms are of KServe's webhook. Not allowed is what is not named here.
LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"
QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|[MGTPE]i?|Ki)?"
RESOURCES = {"cpu": QUANTITY, "memory": QUANTITY, "nvidia.com/gpu?": r"[1-9][0-9]*"}
SCHEMA = {
    "apiVersion": r"serving\.kserve\.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {
        "name": LABEL,
        "namespace": LABEL,
        "labels": {"matta/size": r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "matta/version": "[0-9a-f]{16}"},
        "annotations": {"matta/content-digest": "[0-9a-f]{64}"},
    },
    "spec": {
        "predictor": {
            "serviceAccountName?": LABEL,
            "minReplicas": int,
            "maxReplicas": int,
            "model": {
                "modelFormat": {"name": "huggingface", "version?": str},
                "args": [r"--[a-z_]+=\S+"],
                "storageUri": r"(gs|s3|pvc|file|https?|hdfs|webhdfs|oci|hf)://\S+",
                "resources": {"requests": RESOURCES, "limits": RESOURCES},
            },
        }
    },
}


def problems(value, schema, where="$"):
    """What of a value the schema does not allow."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        known = {name.rstrip("?"): part for name, part in schema.items()}
        found = [f"{where}.{name} is unknown" for name in value if name not in known]
        found += [f"{where}.{name} is missing" for name in schema if name[-1] != "?" and name not in value]
        for name in (name for name in value if name in known):
            found += problems(value[name], known[name], f"{where}.{name}")
        return found
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            problem for number, item in enumerate(value) for problem in problems(item, schema[0], f"{where}[{number}]")
        ]
    if isinstance(schema, str):
        return [] if isinstance(value, str) and re.fullmatch(schema, value) else [f"{where} is {value!r}"]
    return [] if type(value) is schema else [f"{where} is {value!r}"]


def service_of(config, target, size="s"):
    return yaml.safe_load(text_of(config, target, size))


def text_of(config, target, size="s"):
    arguments = ["--model_name=matta-s", "--dtype=float32", "--backend=huggingface"]
    return serving.manifest(
        config, open_storage(target), size, VERSION, DIGEST, memory=config.memory or "5121Mi", arguments=arguments
    )


@pytest.mark.parametrize(
    "config",
    [
        ServingConfig(),
        ServingConfig(name="chat", namespace="prod", min_replicas=0, max_replicas=4, cpu="500m", memory="1.5Gi"),
        ServingConfig(gpus=2, service_account="reader", volume_claim="models"),
    ],
)
@pytest.mark.parametrize("size", ["s", "XL", "with_underscore", "a-b"])
def test_the_manifest_is_what_kserves_schema_allows(config, size, tmp_path):
    service = service_of(config, str(tmp_path), size)
    assert problems(service, SCHEMA) == []
    predictor = service["spec"]["predictor"]
    assert 0 <= predictor["minReplicas"] <= predictor["maxReplicas"]
    assert predictor["model"]["resources"]["limits"] == predictor["model"]["resources"]["requests"]


def test_the_check_of_the_schema_finds_what_is_wrong(tmp_path):
    service = service_of(ServingConfig(), str(tmp_path))
    service["spec"]["predictor"]["replicas"] = 1
    service["spec"]["predictor"]["model"]["storageUri"] = "ftp://host/model"
    del service["metadata"]["name"]
    assert problems(service, SCHEMA) == [
        "$.metadata.name is missing",
        "$.spec.predictor.replicas is unknown",
        "$.spec.predictor.model.storageUri is 'ftp://host/model'",
    ]


def test_the_manifest_points_at_the_immutable_version(gcs_target, tmp_path):
    name = f"s/versions/{VERSION}"
    local = str(tmp_path)

    def uri_of(service):
        return service["spec"]["predictor"]["model"]["storageUri"]

    assert uri_of(service_of(ServingConfig(), gcs_target)) == f"{gcs_target}/{name}"
    assert uri_of(service_of(ServingConfig(volume_claim="models"), gcs_target)) == f"{gcs_target}/{name}"
    assert uri_of(service_of(ServingConfig(volume_claim="models"), local)) == f"pvc://models/{name}"
    assert uri_of(service_of(ServingConfig(), local)) == f"file://{local}/{name}"


def test_a_path_of_one_machine_is_told_to_be_one(gcs_target, tmp_path):
    local = text_of(ServingConfig(), str(tmp_path))
    assert local.startswith("# storageUri is a path on the machine that pushed")
    assert not text_of(ServingConfig(), gcs_target).startswith("#")


MEMBER = {"bytes": 3 * 2**30}


def results(device, peak):
    return {"models": {"s": {"peak_memory_bytes": peak}}, "measured_on": {"device": device}}


@pytest.mark.parametrize(
    ("config", "measured", "memory"),
    [
        (ServingConfig(), results("cpu", 5 * 2**30 + 1), "7169Mi"),  # 2 GiB of the server's, 5 GiB and a byte
        (ServingConfig(), results("NVIDIA L4", 5 * 2**30), "8192Mi"),  # 2 GiB and twice the weights
        (ServingConfig(), results("cpu", None), "8192Mi"),
        (ServingConfig(gpus=1), results("cpu", 5 * 2**30), "8192Mi"),
        (ServingConfig(memory="1Gi"), results("cpu", 5 * 2**30), "1Gi"),
    ],
)
def test_a_replicas_memory_is_what_was_measured_and_the_servers_own(config, measured, memory):
    assert serving.memory(config, MEMBER, measured, "s") == memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_is_served_in_the_dtype_of_its_weights_and_on_a_cpu_by_transformers(dtype, tmp_path):
    save_model(tiny_gpt2(vocab_size=257).to(getattr(torch, dtype)), byte_tokenizer(), tmp_path)
    named = ["--model_name=matta-s", f"--dtype={dtype}"]
    assert serving.arguments(ServingConfig(), "matta-s", tmp_path) == [*named, "--backend=huggingface"]
    assert serving.arguments(ServingConfig(gpus=1), "matta-s", tmp_path) == named


def test_the_manifest_of_a_push_has_the_measured_memory_and_the_models_dtype(make, push_to, queried, tmp_path):
    artifact = push_to(tmp_path / "pushed", make("first"), tmp_path / "record")
    model = yaml.safe_load((artifact.path / "serving" / "s.yaml").read_text())["spec"]["predictor"]["model"]
    assert model["resources"]["requests"]["memory"] == "5121Mi"
    assert model["args"] == ["--model_name=matta-s", "--dtype=bfloat16", "--backend=huggingface"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "Chat"}, r"push\.serving\.name must be lower-case letters, digits and -, from a letter, got 'Chat'"),
        ({"memory": "2 GB"}, r"push\.serving\.memory must be a Kubernetes quantity such as 500m or 2Gi, got '2 GB'"),
        ({"min_replicas": 3}, r"push\.serving\.min_replicas must be <= max_replicas = 1, got 3"),
        ({"replicas": 3}, r"unknown setting push\.serving\.replicas"),
    ],
)
def test_settings_that_kubernetes_would_refuse_are_refused_when_the_recipe_is_read(values, message):
    with pytest.raises(UserError, match=message):
        ServingConfig.from_dict(values, "push.serving")


def test_names_that_kubernetes_would_refuse_or_confuse_are_refused_before_a_push():
    with pytest.raises(UserError, match=r"sizes 'S' and 's' would both be served as 'matta-s': rename one"):
        ServingConfig().check_sizes(["S", "s"])
    with pytest.raises(UserError, match=r"longer than Kubernetes' 63 characters"):
        ServingConfig(name="a" * 62).check_sizes(["s"])


def card_of(make, push_to, tmp_path, size, baseline="baseline-s", target=None):
    artifact = push_to(target or tmp_path / "pushed", make("first", baseline=baseline), tmp_path / "record")
    return (artifact.path / "cards" / f"{size}.md").read_text()


def test_the_cards_header_is_read_by_hugging_faces_tools_with_the_figures(make, push_to, queried, tmp_path):
    card = ModelCard(card_of(make, push_to, tmp_path, "s"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.model_name == "matta-s"
    (figure,) = card.data.eval_results
    assert (figure.dataset_type, figure.metric_type, figure.metric_value) == (
        "matta_bits_per_byte",
        "bits_per_byte",
        2.0625,
    )


def test_the_card_says_what_from_which_artifacts_how_good_and_how_to_load(make, push_to, queried, tmp_path):
    card = card_of(make, push_to, tmp_path, "s")
    assert "| Parameters | 1,000 |" in card
    for name, digest in (("Checkpoint", "c" * 64), ("Dataset", "d" * 64), ("Teacher", "7" * 64)):
        assert f"| {name} digest | `{digest}` |" in card
    assert "| `matta_bits_per_byte` | `bits_per_byte` | lower | 2.062 (1.857 to 2.268) | 40 | 32 |" in card
    assert "Version 0123456789abcdef was served." in card
    assert "| `matta_bits_per_byte` length=long | 2.188 | 2.062 | +0.125 | -0.0625 to +0.3125 | noise |" in card
    assert "## Limits" in card
    (path,) = re.findall(r'AutoModelForCausalLM.from_pretrained\("(.*)"\)', card)
    assert path.startswith(str(tmp_path / "pushed" / "s" / "versions"))


def test_the_card_of_a_first_push_says_that_nothing_was_compared(make, push_to, queried, tmp_path):
    card = card_of(make, push_to, tmp_path, "s", baseline=None)
    assert "Nothing else of this size was served when it was evaluated" in card


def test_a_figure_that_is_no_number_is_told_as_such_and_left_out_of_the_header(make, push_to, queried, tmp_path):
    text = card_of(make, push_to, tmp_path, "xl")
    assert "| lambada\\|odd | `acc` | higher | no finite number | 40 | 32 |" in text
    assert [figure.dataset_type for figure in ModelCard(text).data.eval_results] == ["matta_bits_per_byte"]
    assert "the TA itself" in text


def test_the_card_of_an_object_store_says_how_to_download(make, push_to, queried, tmp_path, gcs_target):
    card = card_of(make, push_to, tmp_path, "s", target=gcs_target)
    (url,) = re.findall(r"gcloud storage cp --recursive (\S+) \.", card)
    assert url.startswith(f"{gcs_target}/s/versions/")
    assert f'from_pretrained("{url.rsplit("/", 1)[1]}")' in card
