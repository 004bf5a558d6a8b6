"""Any cluster profile is read, or refused in one line: no input ends in another exception."""

import pytest
from hypothesis import given
from nasty_settings import overrides_of, parsed_or_told, quickly, texts_of

from components.common.command_line import DEFAULT_RECIPE
from pipelines.cluster import load_cluster

CLUSTERS = DEFAULT_RECIPE.parent.parent / "clusters"


@pytest.mark.parametrize("name", ["gke_h100.yaml", "vertex.yaml"])
def test_any_profile_is_read_or_refused_in_one_line(name, tmp_path):
    path = tmp_path / "c.yaml"

    @quickly
    @given(text=texts_of(CLUSTERS / name))
    def check(text):
        path.write_bytes(text.encode(errors="surrogatepass"))
        parsed_or_told(lambda: load_cluster(path))

    check()


@quickly
@given(
    overrides=overrides_of(
        CLUSTERS / "gke_h100.yaml", "steps.train.labels.a", "defaults.annotations.a", "secrets", "defaults.tolerations"
    )
)
def test_any_override_of_a_profile_is_read_or_refused_in_one_line(overrides):
    parsed_or_told(lambda: load_cluster(CLUSTERS / "gke_h100.yaml", overrides))
