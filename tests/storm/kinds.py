"""Every kind of storm there is."""

from tests.storm import damage, hostile, kills

KINDS = (*kills.KINDS, *damage.KINDS, *hostile.KINDS)
