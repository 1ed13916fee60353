"""Whatever is in the file, loading gives a configuration or says what is wrong with it."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.loader import load_bytes
from gateway.config.problems import ConfigError

SCALARS = st.sampled_from(
    ["p", "http", "2s", "5%", "8MiB", "${X}", "~", "7", "http://a", "*", "'", '"a"', "&a", "*a", "!t", "<<", "/x",
     "sha256:", "{model}", "1/s", "redis://a", "sqlite:x", "127.0.0.1:1", "\u2028", '"\\ud800"', '"\\0"', "true"]
) | st.text(max_size=5)  # fmt: skip
KEYS = st.sampled_from(
    ["pools", "models", "p", "to", "endpoints", "url", "aliases", "fallback", "listen", "tls", "pick", "keys", "tenant",
     "paths", "path", "model_from", "header", "default", "defaults", "pool", "dns", "file", "labels", "limits", "body",
     "routes", "drain", "delay", "classes", "class", "filler", "protect", "queue", "jobs", "store", "shared", "reserve",
     "priority", "requests", "tokens", "callbacks", "retry", "ca", "*", "as", "id", "admin", "trusted_proxies"]
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS, inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=25,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_no_yaml_text_makes_loading_raise_anything_but_config_error(text: str) -> None:
    one = f"pools: {{p: {text}}}\nmodels: {{m: {text}}}\nkeys: {{k: {text}}}\nclasses: {{a: {text}, b: {text}}}\n"
    many = f"pools: {text}\nmodels: {text}\nkeys: {text}\nclasses: {text}\njobs: {text}\nshared: {text}\n"
    for whole in (text, one, many):
        try:
            load_bytes(whole.encode("utf-8", "surrogatepass"), "f.yaml", {})
        except ConfigError as error:
            assert error.problems


@given(st.text(max_size=100))
def test_a_line_of_anything_added_to_a_good_file_is_refused_or_read(text: str) -> None:
    base = b"pools: {p: {endpoints: [http://a]}}\nmodels: {m: {to: p}}\n"
    try:
        load_bytes(base + text.encode("utf-8", "surrogatepass"), "f.yaml", {})
    except ConfigError as error:
        assert error.problems
