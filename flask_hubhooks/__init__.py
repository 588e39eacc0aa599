"""Docker Hub style webhooks for a container registry's Flask app."""

from .config import ConfigError
from .extension import HubHooks
from .registry import ImagePush, Repository
from .repositories import RepositoryHasWebhooks

__all__ = ["ConfigError", "HubHooks", "ImagePush", "Repository", "RepositoryHasWebhooks"]
