"""`subquad app` under load: users at the same time, each with own files, models and questions.

    pip install "subquad[app]" httpx psutil
    python benchmarks/app_load.py [--users 20] [--minutes 5]

Each user has a cookie of its own, as a browser has, and sends the events that the page sends. First each one uploads a
table with a name and a number of rows that nobody else has, and trains a ridge regression on it; two jobs run at a
time, so that the others wait. Then each one, one after the other until the time is over, opens the page, looks at its
table, and predicts three variants of TDP-43 by the model that ships with subquad. What is shown must be what one user
alone was shown, and the lists must have no file and no model of another user. Afterwards all ask the linear model
that ships with subquad a question; as many chats as fit into memory are answered, and the others are told so. Then one
user closes the page in the middle of a long answer, and it is measured after how many seconds another one is answered,
beside the time between two tokens; a job is started again before it has ended; and a file that is too large is sent.
Times are those that a client sees, which shares the cores with the server. The exit status is 1 if anything is lost,
mixed up or not refused. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import aclosing, contextmanager
from pathlib import Path

import httpx
import pandas as pd
import psutil
from bio_speed import machine
from llm_load import mean, memory_of, percentiles

EXAMPLE, MODEL, LINEAR = "example:tdp43", "example:tdp43-model", "example:linear-smollm2"
STARTS = 4
"""Starts of a job by one browser at the same time, of which the page takes the first."""
END = re.compile(r": (finished|failed|stopped)</span>")
"""What is shown of a job that has ended."""
LARGEST = 2
"""MB of an upload."""


class Page:
    """What the page tells a browser: its events, and the values of its components."""

    def __init__(self, config):
        self.components = {own["id"]: own for own in config["components"]}
        self.events = config["dependencies"]

    def event(self, name, label, target="click"):
        """Return the event that a function with an input of this label handles."""
        for own in self.events:
            labels = [self.components[number]["props"].get("label") for number in own["inputs"]]
            targets = [kind for _, kind in own["targets"]]
            if re.fullmatch(rf"{name}(_\d+)?", own["api_name"] or "") and label in labels and target in targets:
                return own
        raise SystemExit(f"the page has no event {name} with {label!r}")

    def look(self, start):
        """Return the event of the clock that renews what a job shows."""
        return next(own for own in self.events if "tick" in str(own["targets"]) and own["outputs"] == start["outputs"])

    def values(self, event, **given):
        """Return the values of the inputs of an event; those of the page where nothing is given for a label."""
        inputs = [self.components[number]["props"] for number in event["inputs"]]
        return [given.get(own.get("label"), own.get("value")) for own in inputs]


class User:
    """A browser with a cookie of its own, and its times."""

    def __init__(self, address, number, sequences, times):
        self.client = httpx.AsyncClient(base_url=address, timeout=600)
        self.number, self.times, self.token = number, times, secrets.token_hex(8)
        self.name = f"table-{number:02d}.csv"
        self.rows = sequences.iloc[number * 250 : number * 250 + 200 + number]
        self.pasted = "\n".join(sequences["sequence"].iloc[-3 * number - 3 : -3 * number or None])
        self.path = self.page = None
        self.warnings = []

    async def open(self):
        """Open the page."""
        begin = time.perf_counter()
        (await self.client.get("/")).raise_for_status()
        self.page = Page((await self.client.get("/config")).json())
        self.times["page"].append(time.perf_counter() - begin)

    async def send(self, event, values):
        """Send an event; yield what the page would show, and at last the final outputs."""
        body = {"data": values, "fn_index": event["id"], "session_hash": self.token, "trigger_id": None}
        reply = await self.client.post("/gradio_api/queue/join", json=body)
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {reply.text[:200]}")
        own = reply.json()["event_id"]
        async with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.token}) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("event_id") != own:
                    continue
                if message["msg"] == "log":
                    self.warnings.append(message["log"])
                if message["msg"] == "process_generating":
                    yield message["output"]["data"]
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"{event['api_name']}: {message['output']}")
                    yield message["output"]["data"]
                    return
        raise RuntimeError(f"{event['api_name']}: the reply has no end")

    async def ask(self, what, event, **given):
        """Return the final outputs of an event, and note the time."""
        begin = time.perf_counter()
        async with aclosing(self.send(event, self.page.values(event, **given))) as replies:
            *_, last = [reply async for reply in replies]
        self.times[what].append(time.perf_counter() - begin)
        return last

    async def upload(self, name, content):
        """Send a file; return the reply."""
        return await self.client.post("/gradio_api/upload", files={"files": (name, content)})

    async def bring_table(self):
        """Upload the table of this user; return what the page shows."""
        content = self.rows.to_csv(index=False).encode()
        (path,) = (await self.upload(self.name, content)).json()
        file = {"path": path, "orig_name": self.name, "size": len(content), "meta": {"_type": "gradio.FileData"}}
        label = "Drop a table here, or click to choose one"
        _, chosen, _ = await self.ask("upload", self.page.event("on_upload", label, "upload"), **{label: file})
        self.path = chosen["value"]
        # as a browser does when the list has changed; the server remembers the columns that it offers
        await self.describe()

    async def train(self):
        """Train a ridge regression; return what is shown when it has finished."""
        event = self.page.event("on_start", "Models")
        given = {"Table": self.path, "Target columns": ["toxicity"], "Models": ["ridge"]}
        begin = time.perf_counter()
        shown = str(await self.ask("start of a job", event, **given))
        while not END.search(shown):
            await asyncio.sleep(1)
            shown = str(await self.ask("look at a job", self.page.look(event), Table=self.path))
        self.times["job"].append(time.perf_counter() - begin)
        return shown

    async def predict(self):
        """Return what is shown of three sequences."""
        event = self.page.event("on_predict", "Sequences")
        (shown,) = await self.ask("predict", event, **{"Fitted model": MODEL, "Sequences": self.pasted})
        return shown

    async def describe(self):
        """Return what is shown of the table."""
        *_, view, _ = await self.ask("describe", self.page.event("on_source", "Table", "change"), Table=self.path)
        return str(view)

    async def lists(self):
        """Return the files, results and models that are offered to this user."""
        found = []
        for event in self.page.events:
            if ["load" in str(event["targets"]), event["api_name"].rstrip("_0123456789")] == [True, "on_fill"]:
                found += await self.ask("lists", event)
        return json.dumps(found)

    def question(self, tokens):
        """Return the event of a question, and its values."""
        event = self.page.event("on_ask", "Your question")
        given = {"Linearized model": LINEAR, "Your question": f"What is {self.number} plus one?", "Temperature": 0}
        return event, self.page.values(event, **given, **{"Tokens of an answer, at most": tokens})


async def work(user, users, expected, end, found):
    """Use the page until `end`; count what is lost, and what belongs to others."""
    while time.monotonic() < end:
        try:
            await user.open()
            text, shown, lists = await user.describe(), await user.predict(), await user.lists()
        except (httpx.HTTPError, RuntimeError) as error:
            found["lost"] += 1
            found[f"{type(error).__name__}: {error}"[:160]] += 1
            continue
        found["rounds"] += 1
        found["different"] += shown != expected[user.number] or f"<dt>rows</dt><dd>{len(user.rows):,}</dd>" not in text
        others = [other.name for other in users if other is not user]
        found["mixed up"] += user.name not in lists or any(name in lists + text for name in others)


async def chat(users):
    """Let all users ask at once; return how many were answered, and how many were told to wait."""

    async def one(user):
        event, values = user.question(16)
        begin = time.perf_counter()
        async with aclosing(user.send(event, values)) as replies:
            *_, (_, shown) = [reply async for reply in replies]
        user.times["chat"].append(time.perf_counter() - begin)
        if f"What is {user.number} plus one?" in shown and shown.count("tokens per second") == 2:
            return "answered"
        return "told to wait" if "other chats wait" in shown else shown[:200]

    return Counter(await asyncio.gather(*map(one, users)))


async def disconnect(first, second):
    """Close a page in the middle of a long answer; return the seconds until another user gets a first token."""

    async def tokens_of(user, most):
        event, values = user.question(most)
        async with aclosing(user.send(event, values)) as replies:
            async for _, shown in replies:
                if "tokens per second" in str(shown):
                    yield time.perf_counter()

    async with aclosing(tokens_of(first, 512)) as moments:
        last = [await anext(moments) for _ in range(4)]
    begin = time.perf_counter()
    async with aclosing(tokens_of(second, 16)) as moments:
        answered = await anext(moments)
    return {"seconds_until_answered": answered - begin, "seconds_between_views": (last[-1] - last[0]) / 3}


async def overload(user):
    """Start a job several times, and send a file that is too large; return how many were refused."""
    event = user.page.event("on_start", "Models")
    user.path = EXAMPLE
    await user.describe()
    user.warnings.clear()
    for seed in range(STARTS):
        given = {"Table": EXAMPLE, "Target columns": ["toxicity"], "Models": ["ridge"], "Seed": seed}
        await user.ask("start of a job", event, **given)
    too_large = await user.upload("large.csv", b"a,b\n" * (11 * LARGEST * 2**18))
    return {
        "jobs_refused": sum("has not ended" in text for text in user.warnings),
        "large_file": f"{too_large.status_code}: {too_large.text[:80]}",
    }


async def measure(address, process, options):
    table = pd.read_csv(options.table)
    times = defaultdict(list)
    alone = defaultdict(list)
    users = [User(address, number, table, times) for number in range(options.users)]
    expected = []
    for user in users:
        user.times = alone
        await user.open()
        expected.append(await user.predict())
        user.times = times
    if len({*expected}) < len(expected) or not all("90 % from" in text for text in expected):
        raise SystemExit(f"two users are shown the same predictions, or none: {expected[0][:300]}")
    await asyncio.gather(*(user.bring_table() for user in users))
    trained = Counter(END.search(text)[1] for text in await gathered(users, User.train))
    found, end = Counter(), time.monotonic() + 60 * options.minutes
    own = psutil.Process(process.pid)
    memory, *_ = await asyncio.gather(memory_of(own, end), *(work(user, users, expected, end, found) for user in users))
    fifth = max(1, len(memory) // 5)
    return {
        "jobs": trained,
        "load": found,
        "memory_mib": {"second_fifth": mean(memory[fifth : 2 * fifth]), "last_fifth": mean(memory[-fifth:])},
        "chats": await chat(users),
        "disconnected": await disconnect(users[0], users[1]),
        "overload": await overload(users[0]),
        "seconds": {what: percentiles(values) for what, values in times.items()},
        "seconds_alone": {what: percentiles(values) for what, values in alone.items()},
    }


async def gathered(users, function):
    return await asyncio.gather(*map(function, users))


@contextmanager
def server(workspace):
    """Start the page; yield its address and its process."""
    command = [sys.executable, "-u", "-m", "subquad", "app", "--port", "0", "--workspace", str(workspace)]
    process = subprocess.Popen(
        [*command, "--max-upload", str(LARGEST)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0], process
                break
        else:
            raise SystemExit("the page did not start")
    finally:
        process.terminate()
        process.wait(60)


def is_good(found):
    """Return whether nothing was lost or mixed up, and what was too much was refused."""
    load, overload = found["load"], found["overload"]
    wrong = load["lost"] + load["different"] + load["mixed up"] + [*found["jobs"]].count("failed")
    chats = {*found["chats"]} <= {"answered", "told to wait"} and found["chats"]["answered"] > 0
    return not wrong and chats and overload["jobs_refused"] == STARTS - 1 and overload["large_file"].startswith("413")


def main():
    from subquad.bio.data.examples import resolve_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    options.table = Path(resolve_table(EXAMPLE))
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "work") as (address, process):
        found = asyncio.run(measure(address, process, options))
    about = {name: getattr(options, name) for name in ("users", "minutes")}
    print(json.dumps({"benchmark": "app_load", **machine(1), **about, **found}))
    raise SystemExit(int(not is_good(found)))


if __name__ == "__main__":
    main()
