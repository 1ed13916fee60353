"""Load testing for any OpenAI-compatible URL: traces, open-loop replay, capacity search, locust.

Nothing here imports the gateway: these programs are clients and see only what a client sees.
`replay` and `capacity` need numpy (and uvloop where it is installed); only `locustfile` needs locust.
"""
