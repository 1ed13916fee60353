"""The common ledger of one tenant's limits: a script that runs inside Redis, whole and alone, on one key.

The key's name has the tenant in braces, so in a cluster all of a tenant lies on one server. Its value is a table: the
line of time it counts on (`line`: microseconds at which it was made, by the server's clock, the only one that counts),
for each rate when its bucket would be full (`full`, seconds on the line) and how much was closed by what came back
(`moved`), what is spent of the day, and of every gateway when it was heard of, what it had used in all, and what it
keeps. The arithmetic is that of `gateway.core.limiter`.

One call: gateways that have not been heard of for `ttl` seconds are charged for all they kept; then what this one used
since its last report (totals are sent, so a report that arrives twice counts once); then what came back; then what it
keeps, and what it may have more. The answer is a flat list: known, gateways, claimed, line, end, moved, and for each
limit asked about, in the order of `ORDER`, what was added and what is free beyond it.
"""

from __future__ import annotations

ORDER = ("requests", "tokens", "day", "concurrency")

SCRIPT = """
local m = cjson.decode(ARGV[1])
local t = redis.call('TIME')
local micros = tonumber(t[1]) * 1000000 + tonumber(t[2])
local raw = redis.call('GET', KEYS[1])
local readable, s = pcall(cmsgpack.unpack, raw or '')
if not readable or type(s) ~= 'table' or s.v ~= 1 then
  s = {v = 1, line = micros, day = 0, spent = 0,
       full = {requests = 0, tokens = 0}, moved = {requests = 0, tokens = 0}, gateways = {}}
end
local now = (micros - s.line) / 1000000
local today = math.floor(tonumber(t[1]) / 86400)
if s.day ~= today then s.day, s.spent = today, 0 end

local function charge(kind, n)
  local wish = m.wishes[kind]
  if not wish or n == 0 then return end
  if kind == 'day' then s.spent = math.max(0, s.spent + n)
  elseif kind ~= 'concurrency' and n > 0 then
    s.full[kind] = math.max(s.full[kind], now) + n * wish.each
  end
end

local me = s.gateways[m.gateway]
for id, one in pairs(s.gateways) do
  if now - one.seen > m.ttl then
    for kind, kept in pairs(one.keep) do charge(kind, kept) end
    s.gateways[id] = nil
    if id == m.gateway then me = nil end
  end
end
local known = me and 1 or 0
local total, keep = {}, {}
for kind, wish in pairs(m.wishes) do
  charge(kind, wish.total - (me and me.total[kind] or wish.base))
  total[kind], keep[kind] = wish.total, wish.keep
end
for _, piece in ipairs(m.back) do
  if piece[1] == s.line then
    local span = math.min(piece[4] * m.wishes.tokens.each, piece[2] - (s.moved.tokens - piece[3]) - now)
    if span > 0 then
      s.full.tokens = s.full.tokens - span
      s.moved.tokens = s.moved.tokens + span
    end
  end
end

local claim = s.claim
if claim and (claim.till < now or claim.by == m.gateway) then s.claim = nil end
local answer = {}
local function say(x) answer[#answer + 1] = string.format('%.17g', x) end
local given = {}
for _, kind in ipairs({'requests', 'tokens', 'day', 'concurrency'}) do
  local wish = m.wishes[kind]
  if wish then
    local free = wish.size - wish.keep
    if kind == 'day' then free = free - s.spent
    elseif kind ~= 'concurrency' then free = free - math.max(0, s.full[kind] - now) / wish.each end
    for id, one in pairs(s.gateways) do
      if id ~= m.gateway then free = free - (one.keep[kind] or 0) end
    end
    free = math.floor(free + 0.001)
    local add = math.min(wish.ask, math.max(0, free))
    if wish.need > 0 then
      if wish.need <= wish.keep + free then
        add = math.max(wish.need - wish.keep, math.min(wish.ask + wish.wanted, free), 0)
      elseif not s.claim then s.claim = {by = m.gateway, till = now + 2} end
    end
    keep[kind] = wish.keep + add
    given[#given + 1] = {add, free - add}
  end
end
if m.leaving then s.gateways[m.gateway] = nil
else s.gateways[m.gateway] = {seen = now, total = total, keep = keep} end
local count = 0
for _ in pairs(s.gateways) do count = count + 1 end

say(known) say(count) say((s.claim and s.claim.by ~= m.gateway) and 1 or 0)
say(s.line) say(s.full.tokens) say(s.moved.tokens)
for _, pair in ipairs(given) do say(pair[1]) say(pair[2]) end
redis.call('SET', KEYS[1], cmsgpack.pack(s), 'PX', m.life)
return answer
"""
