"""What every long command needs, whatever it computes: the processes that it is made of."""
