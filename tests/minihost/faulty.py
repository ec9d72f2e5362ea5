"""A callback with a bug, whose exception cannot be sent to another process."""

import lightning as L


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class Bug(L.Callback):
    def __init__(self, on=True):
        self.on = on

    def on_train_start(self, trainer, module):
        if self.on:
            raise Odd("a", "bug")
