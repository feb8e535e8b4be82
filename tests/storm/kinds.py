"""Every kind of storm there is."""

from tests.storm import damage, hostile, kills, local_cache, network

KINDS = (*kills.KINDS, *damage.KINDS, *network.KINDS, *hostile.KINDS, local_cache.LOCAL_CACHE_KILLS)
