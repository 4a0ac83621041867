"""`aweigh bench`: the commands that measure."""
