"""What stands behind `ci2p.py`: the checks of its arguments, and what its classes are made of. Private."""
