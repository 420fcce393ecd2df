"""The metrics that come with the library, and what they count with."""
