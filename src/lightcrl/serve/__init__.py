"""The server: an index over HTTP, for programs and for the page that comes with it (extra `serve`)."""
