"""The store: SQL tables, and functions on a connection that know them.

engine        transactions        instances, tokens       tenants and who may speak for them
blobs         payloads            programs                programs and their immutable versions
migrations    the schema          idempotency             answers to requests that were made before
"""

from neartime_server.store.engine import Store

__all__ = ["Store"]
