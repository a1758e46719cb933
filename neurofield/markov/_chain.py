"""Whole neurons moved by multinomial draws."""


def run_chain(*args, **keywords):
    raise NotImplementedError
