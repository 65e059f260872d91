from __future__ import annotations

from clusters import cluster, cluster_images, namespace
from databases import postgres

__all__ = ["cluster", "cluster_images", "namespace", "postgres"]
