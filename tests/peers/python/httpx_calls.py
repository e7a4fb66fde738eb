"""Calls the server of web.js with httpx: VERSION is 1.1 or 2. Prints `fine`, or fails."""

import asyncio
import sys

import httpx

base, version = sys.argv[1:]
two = version == "2"
options = {"http1": not two, "http2": two, "base_url": base, "timeout": 30}

with httpx.Client(**options) as client:
    answer = client.get("/echo?x=1", headers={"x-own": "7"}, cookies={"a": "1", "b": "2"})
    assert answer.http_version == ("HTTP/2" if two else "HTTP/1.1"), answer.http_version
    said = answer.json()
    assert (said["url"], said["headers"]["x-own"]) == ("/echo?x=1", "7"), said
    assert said["headers"]["cookie"] == "a=1; b=2", said

    # A body whose length nobody knows, and one that does not fit a window.
    pieces = (b"y" * 5000 for _ in range(200))
    assert client.post("/echo", content=pieces).json()["length"] == 1_000_000
    assert client.put("/echo", content=b"z" * 300_000).json()["length"] == 300_000
    with client.stream("GET", "/large/3000000") as answer:
        assert sum(len(piece) for piece in answer.iter_bytes()) == 3_000_000

    # A download that is given up takes nothing else with it.
    with client.stream("GET", "/large/5000000") as answer:
        next(answer.iter_bytes())
    assert client.get("/echo").status_code == 200
    assert client.head("/echo").status_code == 200
    assert client.get("/status/404").status_code == 404


async def at_once():
    async with httpx.AsyncClient(**options) as client:
        urls = [f"/echo?n={number}" for number in range(300)]
        answers = await asyncio.gather(*(client.get(url) for url in urls))
        assert [answer.json()["url"] for answer in answers] == urls


asyncio.run(at_once())
print("fine")
