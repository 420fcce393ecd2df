"""A callback with a tag, for tests of the list of callbacks."""

from callbacks import Callback


class Probe(Callback):
    def __init__(self, tag="", *, name=None):
        super().__init__(name=name)
        self.tag = tag

    def after_epoch(self, learn):
        self.epoch = learn.epoch
