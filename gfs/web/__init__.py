"""The web console that every master serves: pages over the requests that any client may send."""
