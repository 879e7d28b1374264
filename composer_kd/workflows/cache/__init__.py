"""The workflow of ``composer-kd cache``: runs the teachers of a run once over its training set, and stores them."""

from composer_kd.workflows.cache.run import cache, default_folder
from composer_kd.workflows.cache.settings import CacheSettings

__all__ = ['CacheSettings', 'cache', 'default_folder']
