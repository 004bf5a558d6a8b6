import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from components.prepare_data.documents import content_hash, normalise, shard_counts, shard_names, shard_of, split_of

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(any_text)
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(text)
    assert normalise(once) == once
    assert "\r" not in once
    assert once == once.rstrip()
    assert unicodedata.is_normalized("NFC", once)


def test_spellings_of_one_text_have_one_hash():
    spellings = ["é\n\n  x", "e\u0301\r\n\r\n  x\r\n", "\ufeffé\r\r  x \n\t"]
    assert {normalise(text) for text in spellings} == {"é\n\n  x"}


def test_leading_indentation_is_kept():
    assert normalise("    x") == "    x"


def test_the_splits_take_their_share_of_all_hashes():
    digests = [content_hash(str(i)) for i in range(4000)]
    held_out = sum(split_of(digest, 0.25) == "validation" for digest in digests)
    assert abs(held_out / 4000 - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # four standard deviations
    # More is held out by a larger fraction, nothing moves back.
    assert all(split_of(d, 0.4) == "validation" for d in digests if split_of(d, 0.25) == "validation")


def test_validation_shards_are_about_as_large_as_those_of_train():
    assert shard_counts(4, 0.05) == {"train": 4, "validation": 1}
    assert shard_counts(100, 0.05) == {"train": 100, "validation": 5}
    assert shard_counts(10, 0.5) == {"train": 10, "validation": 10}


@given(any_text, st.integers(1, 20), st.floats(0.01, 0.5))
def test_every_document_has_a_shard_of_its_split(text, num_shards, fraction):
    counts = shard_counts(num_shards, fraction)
    digest = content_hash(text)
    name = shard_of(digest, fraction, counts)
    assert name in shard_names(counts)
    assert name.startswith(split_of(digest, fraction))
