"""Train one network once; take from it the best sub-network for each device and budget."""

__version__ = "0.1.0"
