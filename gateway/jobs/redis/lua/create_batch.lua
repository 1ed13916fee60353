-- ARGV: id, tenant, input file, expires_at, idempotency key or '', then fields and values of the batch.
-- Gives the id of the batch that stands for this (another one's, where the key was used before), or '' without the file.
local id, tenant, input, expires, once = unpack(ARGV, 1, 5)
local b, f = P .. 'b:' .. id, P .. 'f:' .. input
if call('EXISTS', b) == 1 then return id end
if once ~= '' then
  local first = call('GET', P .. 'once:b:' .. once)
  if first then return first end
end
local its, state = unpack(call('HMGET', f, 'tenant', 'state'))
if its ~= tenant or state ~= 'r' then return '' end
if once ~= '' then
  call('SET', P .. 'once:b:' .. once, id)
  call('HSET', b, 'once', once)
end
call('HINCRBY', f, 'uses', 1)
local seq = call('INCR', P .. 'seq')
call('HSET', b, 'seq', seq, unpack(ARGV, 6))
set_status(id, 'validating')
call('ZADD', P .. 'batches:' .. tenant, seq, id)
call('ZADD', P .. 'validating', seq, id)
call('ZADD', P .. 'ends', expires, id)
return id
