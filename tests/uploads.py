"""Programs as the API takes them."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import httpx

MAIN = "def main(backend, user_messenger, **kwargs):\n    return kwargs\n"
SCHEMA = {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}, "required": ["count"]}


def archive(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path, text in files.items():
            file.writestr(zipfile.ZipInfo(path), text)
    return buffer.getvalue()


def body(name: str = "hello", code: str = MAIN, *, public: bool | None = None, **manifest: Any) -> dict[str, Any]:
    data = base64.b64encode(archive({"program.py": code})).decode()
    upload: dict[str, Any] = {"manifest": {"name": name, **manifest}, "data": data}
    return upload if public is None else {**upload, "is_public": public}


def faults(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 422, response.text
    return {problem.get("path"): problem["code"] for problem in response.json()["errors"]}
