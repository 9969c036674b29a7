"""The guided run of `driftloop demo`: what happens is told as it happens, and recorded.

`story` turns messages into what there is to tell, `guide` tells it on the terminal and to the browser, `cast` and
`film` record both.
"""
