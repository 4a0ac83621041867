"""The command line `aweigh`, also installed as `kubectl-aweigh`."""
