"""The Kubernetes and its images, as fixtures of this folder."""

from clusters import cluster, cluster_images, namespace

__all__ = ["cluster", "cluster_images", "namespace"]
