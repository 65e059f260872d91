"""The contract between client, server and runner: pydantic models and subject names, and no I/O.

ids        one alphabet for every id                 events    envelope, order, log records, references
programs   manifest, schemas, versions, digest       subjects  streams, subjects, permissions
jobs       status, reasons, requests, views          launch    a worker's launch, signed commands, the zygote
sessions   modes, states, requests, views            problem   the one shape of errors
backends   configuration, status                     version   which contract versions are spoken
"""
