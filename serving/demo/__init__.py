"""Guided run of `driftloop demo`: each step of the loop is explained when it happens, and recorded.

`script` turns messages into captions, `narrator` shows them on the terminal and on the live page, and `asciicast` and
`video` record both.
"""
