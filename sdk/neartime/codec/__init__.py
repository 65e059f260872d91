"""Values to bytes and back: the tagged JSON of Qiskit Runtime, with tags of our own for what that form loses.

Importing this loads neither qiskit nor numpy; encoding numbers, text, lists and dictionaries never does.
"""

from neartime.codec.decoder import Decoder, decode
from neartime.codec.encoder import encode, encode_chunks
from neartime.codec.transfer import DECODED_LIMIT
from neartime.codec.versions import readable_qpy_version

__all__ = ["DECODED_LIMIT", "Decoder", "decode", "encode", "encode_chunks", "readable_qpy_version"]
