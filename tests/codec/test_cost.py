"""What encoding costs: no imports for plain values, no second copy of large ones."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

MEGABYTE = 1 << 20

MEASURE = """
import json, resource, sys, tracemalloc
import numpy as np
from neartime.codec import Decoder, encode_chunks

def value():
    kind, size = {kind!r}, {size}
    numbers = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
    if kind == "bytes":
        return numbers.tobytes()
    if kind == "list":
        return [0.1234567890123456] * (size // 16)
    if kind == "zeros":
        return np.zeros(size, np.uint8)
    return numbers.view(np.float64).reshape(2, -1).T if kind == "transposed" else numbers.view(np.float64)

first = {{"before": [1, 2], "large": value(), "after": (3,)}}
wire_size = 0
tracemalloc.start()
for chunk in encode_chunks(first):
    wire_size += len(chunk)
encoding = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
chunks = encode_chunks(first)
decoder = Decoder()
tracemalloc.start()
for chunk in chunks:
    decoder.feed(chunk)
del chunk
second = decoder.finish()
decoding = tracemalloc.get_traced_memory()[1]
one, other = first["large"], second["large"]
same = (one.tobytes() == other.tobytes() and one.shape == other.shape) if kind_is_array else one == other
print(json.dumps([encoding, decoding, wire_size, bool(same)]))
"""


def measured(kind: str, size: int) -> list[Any]:
    """Peak bytes of encoding, then of decoding (the value among them); bytes on the wire; whether it came back."""
    script = MEASURE.format(kind=kind, size=size).replace("kind_is_array", str(kind not in ("bytes", "list")))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    answer: list[Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("kind", ["floats", "transposed", "bytes", "zeros"])
def test_a_large_value_is_held_once_and_beside_it_a_few_chunks(kind: str) -> None:
    size = 64 * MEGABYTE
    encoding, decoding, wire, same = measured(kind, size)
    assert same
    assert encoding < 6 * MEGABYTE
    assert decoding < size + (16 if kind == "bytes" else 8) * MEGABYTE
    assert wire < size * 1.34 + 1000


def test_a_long_list_of_numbers_is_written_a_slice_at_a_time() -> None:
    encoding, _, wire, same = measured("list", 8 * MEGABYTE)
    assert same
    assert encoding < 4 * MEGABYTE < wire


def loaded_after(script: str) -> set[str]:
    code = f"import sys\n{script}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_plain_values_load_neither_numpy_nor_qiskit() -> None:
    loaded = loaded_after(
        "from neartime import codec\n"
        "value = {'energy': -1.5, 'at': (1, 2), 3: {4, b'x', 1j}}\n"
        "assert codec.decode(codec.encode(value)) == value\n"
        "assert codec.readable_qpy_version() >= 13"
    )
    assert not loaded & {"numpy", "qiskit", "scipy", "pickle", "cloudpickle"}


def test_numpys_values_do_not_load_qiskit() -> None:
    loaded = loaded_after(
        "import numpy as np\nfrom neartime import codec\n"
        "assert codec.decode(codec.encode([np.float64(1), np.arange(3)]))[0] == 1"
    )
    assert not loaded & {"qiskit", "scipy"}


def test_an_array_where_numpy_is_missing_says_what_to_install() -> None:
    script = (
        "sys.modules['numpy'] = None\nfrom neartime import codec\nfrom neartime.errors import DecodeError\n"
        "for size in (4, 200_000):\n"
        "    try:\n"
        '        codec.decode(b\'{"__type__":"ndarray","__value__":"\' + b\'A\' * size + b\'"}\')\n'
        "    except DecodeError as error:\n"
        "        assert 'pip install numpy' in str(error), error\n"
        "    else:\n"
        "        raise SystemExit('read it')"
    )
    loaded_after(script)
