-- ARGV: id, queue, deadline, body, idempotency key or '', then fields and values of the job.
-- Gives the id of the job that stands for this: another one's, where the key was used before.
local id, queue, deadline, body, once = unpack(ARGV, 1, 5)
local j = P .. 'j:' .. id
if call('EXISTS', j) == 1 then return id end
if once ~= '' then
  local first = call('GET', P .. 'once:j:' .. once)
  if first then return first end
  call('SET', P .. 'once:j:' .. once, id)
  call('HSET', j, 'once', once)
end
call('HSET', j, 'queue', queue, 'state', 'queued', unpack(ARGV, 6))
call('SET', P .. 'jb:' .. id, body)
call('HSET', P .. 'i:' .. id, 'queue', queue, 'member', string.format('0%015d:', call('INCR', P .. 'seq')) .. id)
call('SADD', P .. 'queues', queue)
call('ZADD', P .. 'a:' .. queue, deadline, id)
call('ZADD', P .. 'ends', deadline, id)
stand_in_line(id)
return id
