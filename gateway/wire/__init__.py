"""HTTP/1.1 on bare protocols: the hot path's only I/O. It parses strictly, frames afresh and knows no policy."""
