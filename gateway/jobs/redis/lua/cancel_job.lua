-- ARGV: job, at.
local job, at = ARGV[1], ARGV[2]
local j = P .. 'j:' .. job
local state = call('HGET', j, 'state')
if state == 'queued' or state == 'running' then
  call('HSET', j, 'state', 'cancelling')
  if not call('HGET', P .. 'i:' .. job, 'sid') then give_up(job, 'cancelled', at) end
end
return 1
