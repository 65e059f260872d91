from __future__ import annotations

from clusters import cluster, cluster_images, namespace

__all__ = ["cluster", "cluster_images", "namespace"]
