"""The metrics that come with the library, and the counters that they use."""
