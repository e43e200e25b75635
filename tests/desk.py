"""The search page as someone has it open: in a browser, with a server behind it."""

from __future__ import annotations

from contextlib import contextmanager

FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
DROP = """([zone, name, type, bytes]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(bytes)], name, { type }));
  const told = { dataTransfer: files, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("dragover", told));
  document.querySelector(zone).dispatchEvent(new DragEvent("drop", told));
}"""


class Desk:
    """An open page, the server behind it, and what it has said on its console."""

    def __init__(self, page, stub):
        self.page, self.stub, self.said = page, stub, []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.set_default_timeout(20_000)

    def open(self, address=""):
        self.page.goto(self.stub.url + address)
        self.page.wait_for_selector("#results[data-ready]")
        return self.page

    def find(self, text):
        self.page.fill("#text", text)
        self.page.wait_for_selector(".score")

    @contextmanager
    def searching(self):
        """Wait for the answer to the search that the block starts: the page is not busy before it has begun either."""
        with self.page.expect_response("**/search"):
            yield
        self.page.wait_for_selector("#hits[aria-busy=false]", state="attached")

    def drop(self, zone, name, kind, content):
        self.page.evaluate(DROP, [zone, name, kind, list(content)])
