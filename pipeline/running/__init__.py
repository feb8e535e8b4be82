"""What every long command needs, whatever it computes: processes, progress, deadlines, checkpoint files, precision."""
