-- ARGV: at, clock, at most so many. Gives how many leases had ended.
-- The age of a lease is the idle time of its stream entry. XPENDING and not XAUTOCLAIM: the entry is not to go to another
-- worker but back to its place in the order of deadlines, and whose it was decides how much a vanished worker weighs.
local at, clock, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local least = call('GET', P .. 'least_lease')
if not least or call('EXISTS', LEASES[1]) == 0 then return 0 end
local now = call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local shift = clock == 'caller' and now - math.floor(tonumber(at) * 1000) or 0
local company = {}
local pending = call('XPENDING', LEASES[1], LEASES[2])
for _, of in ipairs(pending[4] or {}) do company[of[1]] = tonumber(of[2]) end

local function lose(key, owner)
  local i = P .. 'i:' .. key
  local lost = call('HINCRBY', i, 'lost', 1)
  local blame = number(call('HGET', i, 'blame')) + 1 / company[owner]
  call('HSET', i, 'blame', exact(blame), 'redo', 1)
  if not line_of(key) then
    local member = string.format('%d', math.min(lost, 9)) .. string.sub(call('HGET', i, 'member'), 2)
    call('HSET', i, 'member', member)
  end
  count('lost')
  if not over(key, at) and (blame > DELIVERIES - 1e-6 or lost >= IN_COMPANY) then
    count('poisoned')
    call('XADD', P .. 'dead', 'MAXLEN', '~', 10000, '*', 'reason', 'poisoned', 'key', key, 'owner', owner)
    give_up(key, 'poisoned', at)
  else let_go(key, at) end
end

-- True if its lease had ended. An entry that no item knows is somebody else's, or a leftover.
local function reap(sid, owner, age)
  local found = call('XRANGE', LEASES[1], sid, sid)[1]
  local key = found and found[2][2]
  if not key or call('HGET', P .. 'i:' .. key, 'sid') ~= sid then
    call('XACK', LEASES[1], LEASES[2], sid)
    call('XDEL', LEASES[1], sid)
    return false
  end
  if age - shift < tonumber(call('HGET', P .. 'i:' .. key, 'lease')) then return false end
  unlease(key, sid)
  lose(key, owner)
  return true
end

local reaped, from = 0, '-'
local idle = math.max(0, shift + tonumber(least))
repeat
  local entries = call('XPENDING', LEASES[1], LEASES[2], 'IDLE', idle, from, '+', 100)
  for _, entry in ipairs(entries) do
    if reap(entry[1], entry[2], entry[3]) then reaped = reaped + 1 end
    from = '(' .. entry[1]
  end
until #entries < 100 or reaped >= most
return reaped
