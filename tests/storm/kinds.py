"""Every kind of storm there is."""

from tests.storm import damage, hostile, kills, network

KINDS = (*kills.KINDS, *damage.KINDS, *network.KINDS, *hostile.KINDS)
