"""Requests to an ASGI application without a server."""

import asyncio


def ask(app, path="/", *, method="GET", body=b"", host="127.0.0.1:7860", **headers):
    """Send one request to an ASGI application; return status, headers and body."""
    return asyncio.run(answer(app, path, method=method, body=body, host=host, **headers))


async def answer(app, path="/", *, method="GET", body=b"", host="127.0.0.1:7860", client="127.0.0.1", **headers):
    sent = []
    lines = {"host": host, "accept": "text/html", **{key.replace("_", "-"): value for key, value in headers.items()}}
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in lines.items()], "scheme": "http",
        "server": ("127.0.0.1", 7860), "client": (client, 1), "http_version": "1.1", "root_path": "",
    }  # fmt: skip

    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        # the browser stays until it has its answer
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], [(k.decode(), v.decode()) for k, v in sent[0]["headers"]], content
