"""The floor of POST /jobs: a bare FastAPI endpoint, one row with the same driver. Run: bare_api.py PORT FILE"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, event


def main(port: int, file: str) -> None:
    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def tune(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    metadata = MetaData()
    rows = Table("rows", metadata, Column("id", Integer, primary_key=True), Column("body", Text))
    metadata.create_all(engine)
    writer = ThreadPoolExecutor(1)
    app = FastAPI()

    def insert(body: str) -> None:
        with engine.begin() as connection:
            connection.execute(rows.insert().values(body=body))

    @app.post("/rows")
    async def post(request: Request) -> dict[str, bool]:
        body = (await request.body()).decode()
        await asyncio.get_running_loop().run_in_executor(writer, insert, body)
        return {"ok": True}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", loop="uvloop", http="httptools")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
