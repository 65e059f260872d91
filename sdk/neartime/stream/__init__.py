"""Reads event streams: in order, each event once, over broken connections and expired credentials.

link    one NATS connection              event    what a job said, out of a message
line    one that is always there         order    the order in which it was said
reader  one stream's messages, in order  value    the chunks of a large value
client  a client's reader of its jobs    wire     what travels on a connection, whoever wrote it
"""

from neartime.stream.client import EventStream
from neartime.stream.event import Event
from neartime.stream.line import Line
from neartime.stream.link import Link
from neartime.stream.order import follow
from neartime.stream.reader import Quiet, Stored, read
from neartime.stream.value import chunks

__all__ = ["Event", "EventStream", "Line", "Link", "Quiet", "Stored", "chunks", "follow", "read"]
