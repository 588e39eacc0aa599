"""Docker Hub style webhooks for a container registry's Flask app."""

from .config import ConfigError
from .extension import HubHooks
from .records.repositories import RepositoryHasWebhooks
from .registry import ImagePush, Repository
from .sources import BadEvent
from .version import VERSION as __version__

__all__ = ["BadEvent", "ConfigError", "HubHooks", "ImagePush", "Repository", "RepositoryHasWebhooks", "__version__"]
