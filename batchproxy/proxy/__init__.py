"""The reverse proxy, an ASGI app: hands requests to upstreams, streaming both ways."""
