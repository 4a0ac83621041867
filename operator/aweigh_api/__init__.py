"""The contract between operator, runtime and command line. It decides nothing and does no I/O."""
