"""The HTTP surface: what vLLM answers, spoken to in bytes and through the official clients."""

import json
from typing import Any

import anthropic
import openai
import pytest

from backends.sim.server import SimServer
from tests.backends.sim.conftest import Start, Wire, ask, events, until

MODEL = "llama-3.1-8b"
HELLO = [{"role": "user", "content": "hello the queue"}]


def openai_client(server: SimServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


def anthropic_client(server: SimServer) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="none", max_retries=0)


async def settled(server: SimServer) -> None:
    """Wait until nothing is open; a condition, not a time."""
    await until(lambda: not server.exchanges and not server.engine.in_flight)


class TestOpenaiClient:
    async def test_chat(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            answer = await client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=8, extra_body={"ignore_eos": True}
            )
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 8)
        assert answer.choices[0].finish_reason == "length"
        assert len(answer.choices[0].message.content or "") == 32

    async def test_chat_stream(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=HELLO,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            chunks = [chunk async for chunk in stream]
        assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
        assert [c.choices[0].finish_reason for c in chunks[1:-1]] == [None] * 7 + ["length"]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8

    async def test_completions_with_several_prompts_and_copies(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            answer = await client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=3)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]

    async def test_responses(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            answer = await client.responses.create(model=MODEL, input="hello", max_output_tokens=1)
            stream = await client.responses.create(model=MODEL, input="hello", max_output_tokens=4, stream=True)
            kinds = [event.type async for event in stream]
        assert answer.output_text
        assert answer.usage is not None
        assert answer.usage.output_tokens == 1
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"

    async def test_embeddings(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            answer = await client.embeddings.create(model=MODEL, input=["one", "two", "one"], dimensions=64)
        vectors = [row.embedding for row in answer.data]
        assert [len(v) for v in vectors] == [64, 64, 64]
        assert vectors[0] == vectors[2] != vectors[1]
        assert sum(x * x for x in vectors[0]) == pytest.approx(1.0, abs=1e-5)

    async def test_models(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            assert [model.id async for model in client.models.list()] == [MODEL]

    async def test_an_unknown_model_is_not_found(self, start: Start) -> None:
        async with openai_client(await start()) as client:
            with pytest.raises(openai.NotFoundError, match="The model `nope` does not exist"):
                await client.chat.completions.create(model="nope", messages=HELLO)


class TestAnthropicClient:
    async def test_messages(self, start: Start) -> None:
        async with anthropic_client(await start()) as client:
            answer = await client.messages.create(model=MODEL, messages=HELLO, max_tokens=1)
            count = await client.messages.count_tokens(model=MODEL, messages=HELLO, system="four")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 1)
        assert answer.stop_reason == "max_tokens"
        assert count.input_tokens == 5

    async def test_messages_stream(self, start: Start) -> None:
        async with (
            anthropic_client(await start()) as client,
            client.messages.stream(model=MODEL, messages=HELLO, max_tokens=5) as stream,
        ):
            said = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert len(said) == 4 * final.usage.output_tokens
        assert final.content[0].text == said

    async def test_an_unknown_model_has_anthropics_error_shape(self, start: Start) -> None:
        status, body = await ask(await start(), "POST", "/v1/messages", {"model": "nope", "messages": HELLO})
        message = f"The model `nope` does not exist. Valid aliases: {MODEL}."
        assert (status, body) == (404, {"type": "error", "error": {"type": "NotFoundError", "message": message}})


class TestStreams:
    async def test_head_comes_at_once_and_the_first_token_brings_the_role(self, start: Start) -> None:
        server = await start()
        server.runner.freeze()
        wire = await Wire.open(server)
        wire.send(
            "POST",
            "/v1/chat/completions",
            json.dumps({"messages": HELLO, "stream": True}).encode(),
            content_type="application/json",
        )
        status, headers = await wire.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        server.runner.thaw()
        first = events(await wire.chunk())
        assert [e["choices"][0]["delta"].get("role") for e in first] == ["assistant", None]
        wire.close()
        await settled(server)

    async def test_usage_in_every_chunk_counts_up(self, start: Start) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {"messages": HELLO, "max_tokens": 3, "ignore_eos": True, "stream": True, "stream_options": options}
        _, raw = await ask(await start(), "POST", "/v1/chat/completions", body)
        found = events(raw)
        assert [e["usage"]["completion_tokens"] for e in found[:-1]] == [0, 1, 2, 3, 3]
        assert found[-2]["choices"] == []

    async def test_a_stream_without_usage_ends_with_done(self, start: Start) -> None:
        body = {"prompt": "a", "max_tokens": 2, "ignore_eos": True, "stream": True}
        _, raw = await ask(await start(), "POST", "/v1/completions", body)
        found = events(raw)
        assert len(found) == 3
        assert found[1]["choices"][0]["finish_reason"] == "length"
        assert found[-1] == "[DONE]"

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_client_that_leaves_frees_the_engine(self, start: Start, stream: bool) -> None:
        server = await start(speed=0.1)
        wire = await Wire.open(server)
        body = json.dumps({"prompt": "a" * 4000, "max_tokens": 5000, "ignore_eos": True, "stream": stream}).encode()
        wire.send("POST", "/v1/completions", body, content_type="application/json")
        await until(lambda: bool(server.engine.running))
        wire.close()
        await settled(server)
        assert server.engine.pool.usage == 0.0

    async def test_a_stream_that_waits_gets_comments_if_asked_for(self, start: Start) -> None:
        server = await start(server={"sse_comments": 0.002})
        server.runner.freeze()
        wire = await Wire.open(server)
        body = b'{"prompt": "a", "stream": true, "max_tokens": 1}'
        wire.send("POST", "/v1/completions", body, content_type="application/json")
        await wire.head()
        assert await wire.chunk() == b": keep-alive\n\n"
        server.runner.thaw()
        while not (chunk := await wire.chunk()).startswith(b"data: "):
            assert chunk == b": keep-alive\n\n"
        wire.close()

    async def test_an_idle_connection_is_closed_after_a_while(self, start: Start) -> None:
        wire = await Wire.open(await start(server={"keep_alive": 0.01}))
        assert await wire.reader.read() == b""
        wire.close()


class TestLengths:
    @pytest.mark.parametrize("tokens", [1, 16, 17, 333])
    async def test_four_bytes_are_one_token_and_ignore_eos_gives_exactly_max_tokens(
        self, start: Start, tokens: int
    ) -> None:
        body = {"messages": [{"role": "user", "content": "x" * (4 * tokens)}], "max_tokens": tokens, "ignore_eos": True}
        _, answer = await ask(await start(), "POST", "/v1/chat/completions", body)
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (tokens, tokens)

    async def test_an_open_length_is_drawn_and_the_same_seed_draws_the_same(self, start: Start) -> None:
        lengths: list[list[int]] = []
        for _ in range(2):
            server = await start(speed=1000.0)
            bodies = [{"messages": HELLO, "max_tokens": 2000} for _ in range(30)]
            answers = [await ask(server, "POST", "/v1/chat/completions", body) for body in bodies]
            lengths.append([answer["usage"]["completion_tokens"] for _, answer in answers])
        assert lengths[0] == lengths[1]
        assert len(set(lengths[0])) > 15
        assert 100 < sum(lengths[0]) / 30 < 350

    async def test_a_min_tokens_is_kept(self, start: Start) -> None:
        body = {"prompt": "a", "max_tokens": 900, "min_tokens": 900}
        _, answer = await ask(await start(speed=1000.0), "POST", "/v1/completions", body)
        assert answer["usage"]["completion_tokens"] == 900

    async def test_the_next_turn_finds_the_whole_conversation_cached(self, start: Start) -> None:
        server = await start()
        said = {"role": "user", "content": "s" * 640}
        body: dict[str, Any] = {"messages": [said], "max_tokens": 64, "ignore_eos": True}
        _, first = await ask(server, "POST", "/v1/chat/completions", body)
        assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        body["messages"] += [first["choices"][0]["message"], {"role": "user", "content": "n" * 64}]
        _, second = await ask(server, "POST", "/v1/chat/completions", body)
        assert second["usage"]["prompt_tokens"] == 160 + 64 + 16
        # the answer's last token was never put back into the engine, so its last block is not full
        assert second["usage"]["prompt_tokens_details"] == {"cached_tokens": 160 + 48}


class TestPages:
    async def test_tokenize_and_detokenize_are_inverse(self, start: Start) -> None:
        server = await start()
        _, found = await ask(server, "POST", "/tokenize", {"prompt": "hällo the queue"})
        assert found["count"] == len(found["tokens"]) == 4
        assert await ask(server, "POST", "/detokenize", {"tokens": found["tokens"]}) == (
            200,
            {"prompt": "hällo the queue"},
        )
        _, chat = await ask(server, "POST", "/tokenize", {"messages": HELLO})
        assert chat["count"] == 4
        assert (await ask(server, "POST", "/detokenize", {"tokens": ["x"]}))[0] == 400

    async def test_health_ping_version_and_load(self, start: Start) -> None:
        server = await start()
        assert await ask(server, "GET", "/health") == (200, b"")
        assert await ask(server, "GET", "/ping") == (200, b"")
        assert await ask(server, "GET", "/version") == (200, {"version": "0.32.0"})
        assert await ask(server, "GET", "/load") == (200, {"server_load": 0})

    async def test_a_key_guards_v1_alone(self, start: Start) -> None:
        server = await start(server={"api_key": "sk"})
        assert await ask(server, "GET", "/v1/models") == (401, {"error": "Unauthorized"})
        assert (await ask(server, "GET", "/v1/models", authorization="Bearer sk"))[0] == 200
        assert (await ask(server, "GET", "/metrics"))[0] == 200

    async def test_a_request_id_is_kept(self, start: Start) -> None:
        wire = await Wire.open(await start())
        body = b'{"prompt": "a", "max_tokens": 1}'
        wire.send("POST", "/v1/completions", body, content_type="application/json", X_Request_Id="my-id-1")
        _, headers, answer = await wire.answer()
        assert headers["x-request-id"] == "my-id-1"
        assert json.loads(answer)["id"] == "cmpl-my-id-1"
        wire.close()

    @pytest.mark.parametrize(
        ("form", "expected"),
        [
            ("JSON", 'JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}'),
            ("TEXT", "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0"),
            ("BIN", None),
        ],
    )
    async def test_a_load_report_comes_when_asked_for(self, start: Start, form: str, expected: str | None) -> None:
        wire = await Wire.open(await start())
        for stream in (b"false", b"true"):
            body = b'{"prompt": "a", "max_tokens": 1, "stream": %b}' % stream
            headers = {"content_type": "application/json", "endpoint_load_metrics_format": form}
            wire.send("POST", "/v1/completions", body, **headers)
            _, got, _ = await wire.answer()
            assert got.get("endpoint-load-metrics") == (expected if stream == b"false" else None)
        wire.close()
