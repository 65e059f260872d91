"""Names of images: Docker's rules, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neartime.errors import InvalidReference
from neartime.oci import Reference

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", "latest", None),
        ("python:3.11-slim", "docker.io", "library/python", "3.11-slim", None),
        ("someone/thing", "docker.io", "someone/thing", "latest", None),
        ("docker.io/python", "docker.io", "library/python", "latest", None),
        ("index.docker.io/library/python", "docker.io", "library/python", "latest", None),
        ("localhost/thing", "localhost", "thing", "latest", None),
        ("localhost:5000/thing", "localhost:5000", "thing", "latest", None),
        ("host:5000/a/b:tag", "host:5000", "a/b", "tag", None),
        (f"host:5000/a/b:tag@{DIGEST}", "host:5000", "a/b", "tag", DIGEST),
        (f"host.example/a@{DIGEST}", "host.example", "a", None, DIGEST),
        (f"python@{DIGEST}", "docker.io", "library/python", None, DIGEST),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest", None),
        ("HOST/a", "HOST", "a", "latest", None),
        ("a__b/c-d.e_f/g---h", "docker.io", "a__b/c-d.e_f/g---h", "latest", None),
    ],
)
def test_a_name_is_read_by_dockers_rules(
    text: str, registry: str, repository: str, tag: str | None, digest: str | None
) -> None:
    assert Reference.parse(text) == Reference(registry, repository, tag, digest)
    assert Reference.parse(text).registry == registry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no repository"),
        ("Python", "in lower case"),
        ("host.example/", "is no repository"),
        ("host.example/a//b", "is no repository"),
        ("host.example/../a", "is no repository"),
        ("a:", "is no tag"),
        ("a:-b", "is no tag"),
        ("a:b c", "is no tag"),
        (f"a:{'b' * 129}", "is no tag"),
        ("a@sha256:abc", "is no digest"),
        (f"a@sha256:{'A' * 64}", "is no digest"),
        ("a@", "is no digest"),
        ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "is no digest"),
        ("ho_st.example/a", "is no registry"),
        ("host.example:port/a", "is no registry"),
        ("user@host.example/a", "is no digest"),
        ("https://host.example/a", "is no registry"),
        (f"{'a/' * 130}b", "at most 255"),
        ("a\n", "is no repository"),
        ("a:b\n", "is no tag"),
    ],
)
def test_what_is_no_name_is_refused_with_the_part_that_is_wrong(text: str, why: str) -> None:
    with pytest.raises(InvalidReference, match=why):
        Reference.parse(text)


def test_a_reference_can_not_be_made_that_would_be_read_as_another() -> None:
    with pytest.raises(InvalidReference, match="is no registry"):
        Reference("someone", "thing")
    assert Reference("docker.io", "python") == Reference("docker.io", "library/python")


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.just("docker.io"),
    st.builds("{}.{}".format, label, label),
    st.builds("{}:{}".format, label, st.integers(1, 65535)),
    st.just("localhost"),
    st.just("[fe80::1]:443"),
)
component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
repositories = st.lists(component, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
digests = st.one_of(
    st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True), st.from_regex(r"sha512:[0-9a-f]{128}", fullmatch=True)
)


@given(hosts, repositories, st.none() | tags, st.none() | digests)
def test_what_is_written_is_read_as_the_same(host: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = Reference(host, repository, tag, digest)
    again = Reference.parse(str(reference))
    assert again == (reference if tag or digest else reference.tagged("latest"))
    assert str(Reference.parse(str(again))) == str(again)


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused_and_what_is_read_can_stand_in_a_path(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference
    assert all(part.isascii() and part.strip(".") and "%" not in part for part in reference.name.split("/"))


def test_a_pinned_reference_keeps_its_tag_and_a_tagged_one_loses_its_digest() -> None:
    reference = Reference.parse("host:1/a:b")
    assert str(reference.at(DIGEST)) == f"host:1/a:b@{DIGEST}"
    assert str(reference.at(DIGEST).tagged("c")) == "host:1/a:c"
