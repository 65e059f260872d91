"""NATS: an account for each instance, credentials, streams, commands, and the server that the embedded runtime starts.

keys      every key, derived from one secret    claims   NATS' tokens, pure functions
accounts  what NATS is told of the instances    tenant   one instance's streams, and its workers
bus       what the rest of the server calls     server   the embedded NATS server
platform  the account of gateways
"""

from neartime_server.bus.bus import Bus
from neartime_server.bus.keys import Keys
from neartime_server.bus.platform import gateway_access
from neartime_server.bus.server import NatsServer

__all__ = ["Bus", "Keys", "NatsServer", "gateway_access"]
