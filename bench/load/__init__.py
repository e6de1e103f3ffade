"""Load: fixed schedules sent to any server of the Open Inference Protocol, and what came of them.

Decisions are pure (``arrivals``, ``plan``, ``histogram``, ``records``, ``http2``); one thin
shell holds the socket and the clock (``sender``), one the processes (``fleet``).
"""
