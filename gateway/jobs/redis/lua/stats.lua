-- Gives {{queue, waiting, claimed, earliest deadline or '', of those waiting: jobs} ..., statuses, counters}.
local queues = {}

local function add(queue, waiting, claimed, deadline, jobs)
  local known = queues[queue] or { 0, 0, nil, 0 }
  local earliest = (not known[3] or deadline < known[3]) and deadline or known[3]
  queues[queue] = { known[1] + waiting, known[2] + claimed, earliest, known[4] + jobs }
end

local function add_batch(batch)
  local b = P .. 'b:' .. batch
  local of = call('HMGET', b, 'queue', 'total', 'completed', 'failed', 'claimed', 'expires_at')
  local left = number(of[2]) - number(of[3]) - number(of[4])
  add(of[1], left - number(of[5]), number(of[5]), tonumber(of[6]), 0)
end

for _, queue in ipairs(call('SMEMBERS', P .. 'queues')) do
  local jobs, held = call('ZCARD', P .. 'a:' .. queue), number(call('HGET', P .. 'held', queue))
  local first = call('ZRANGE', P .. 'a:' .. queue, 0, 0, 'WITHSCORES')
  if first[2] then add(queue, jobs - held, held, tonumber(first[2]), jobs - held) end
  for _, member in ipairs(call('ZRANGE', P .. 'q:' .. queue, 0, -1)) do add_batch(string.match(member, '(batch_.*)$')) end
end
for _, batch in ipairs(call('SMEMBERS', P .. 'closing')) do add_batch(batch) end
local told = {}
for queue, of in pairs(queues) do
  told[#told + 1] = { queue, of[1], of[2], of[3] and exact(of[3]) or '', of[4] }
end
return { told, call('HGETALL', P .. 'statuses'), call('HGETALL', P .. 'counters') }
