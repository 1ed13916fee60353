"""The common ledger of one tenant's limits: a script that runs inside Redis, whole and alone, on one key.

The key's name has the tenant in braces, so in a cluster all of a tenant lies on one server. Its value is a table: when
it was made (`made`, microseconds by the server's clock, the only one that counts), for each rate when what was charged
will have drained (`full`, seconds since then), what is spent of the day, and of every gateway when it was heard of,
what it had charged in all, and what it keeps. The arithmetic is that of `gateway.core.limiter`.

One call: gateways that have not been heard of for `ttl` seconds are charged for all they kept; then what this one has
charged since its last report (totals are sent, so a report that arrives twice counts once); then what it keeps, and
what it may have more. The answer is a flat list: known, gateways, claimed, and for each limit asked about, in the order
of `ORDER`, what was added, what is free beyond it, and what is charged.
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
  s = {v = 1, made = micros, day = 0, spent = 0, full = {requests = 0, tokens = 0}, gateways = {}}
end
local now = (micros - s.made) / 1000000
local today = math.floor(tonumber(t[1]) / 86400)
if s.day ~= today then s.day, s.spent = today, 0 end

local function charge(kind, n)
  local wish = m.wishes[kind]
  if not wish or n <= 0 then return end
  if kind == 'day' then s.spent = s.spent + n
  elseif kind ~= 'concurrency' then
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
local claim = s.claim
if claim and (claim.till < now or claim.by == m.gateway) then s.claim = nil end
local answer = {}
local function say(x) answer[#answer + 1] = string.format('%.17g', x) end
local given = {}
for _, kind in ipairs({'requests', 'tokens', 'day', 'concurrency'}) do
  local wish = m.wishes[kind]
  if wish then
    local charged = 0
    if kind == 'day' then charged = s.spent
    elseif kind ~= 'concurrency' then charged = math.max(0, s.full[kind] - now) / wish.each end
    local free = wish.size - wish.keep - charged
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
    given[#given + 1] = {add, free - add, charged}
  end
end
if m.leaving then s.gateways[m.gateway] = nil
else s.gateways[m.gateway] = {seen = now, total = total, keep = keep} end
local count = 0
for _ in pairs(s.gateways) do count = count + 1 end

say(known) say(count) say((s.claim and s.claim.by ~= m.gateway) and 1 or 0)
for _, told in ipairs(given) do say(told[1]) say(told[2]) say(told[3]) end
redis.call('SET', KEYS[1], cmsgpack.pack(s), 'PX', m.life)
return answer
"""
