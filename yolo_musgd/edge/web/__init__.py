"""The page of ``serve``: a web server in a process of its own, so that no client can slow the detector."""
