"""The Kubernetes and its images, as fixtures of this folder."""

from clusters import cluster, cluster_images, namespace
from executors.conftest import lab, pods

__all__ = ["cluster", "cluster_images", "lab", "namespace", "pods"]
