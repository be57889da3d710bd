"""thinkling: teach a language model to think, and know whether it did."""

__version__ = "0.1.0"
