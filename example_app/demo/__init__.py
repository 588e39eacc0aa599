"""The whole path in one command: a real push, its webhooks, a callback, a finished chain, the history."""
