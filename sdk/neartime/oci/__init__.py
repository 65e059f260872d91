"""Registries of container images: what they hold is read, written, listed and deleted, over HTTP.

It speaks the OCI distribution specification, version 1.1, which is the Docker Registry HTTP API V2. Nothing here knows
what an image is for; nothing is sent before a method of `Registry` is awaited.
"""

from neartime.oci.credentials import Credentials, Login
from neartime.oci.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    EMPTY,
    EMPTY_CONTENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from neartime.oci.digest import digest_of
from neartime.oci.reference import Reference
from neartime.oci.registry import Image, Registry
from neartime.oci.source import Source

__all__ = [
    "DOCKER_INDEX",
    "DOCKER_MANIFEST",
    "EMPTY",
    "EMPTY_CONTENT",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_MANIFEST",
    "Credentials",
    "Descriptor",
    "Image",
    "Login",
    "Platform",
    "Reference",
    "Registry",
    "Source",
    "digest_of",
]
