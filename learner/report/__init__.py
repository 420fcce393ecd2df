"""A run as a page: what was trained, its result, its curves; several runs compared."""
