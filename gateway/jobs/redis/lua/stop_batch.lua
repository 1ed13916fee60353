-- ARGV: batch, at, 'cancel' or 'fail', errors. Gives 1 if it had an effect.
-- A batch that was not validated ends at once; the lines of it that were added are cleared away later.
local batch, at, how, errors = unpack(ARGV)
local b = P .. 'b:' .. batch
local status, queue, member = unpack(call('HMGET', b, 'status', 'queue', 'member'))
if status == 'validating' then
  if how == 'fail' then call('HSET', b, 'errors', errors) end
  close_batch(batch, how == 'fail' and 'failed' or 'cancelled', at)
  call('SADD', P .. 'litter', batch)
  return 1
end
if how == 'cancel' and status == 'in_progress' then
  set_status(batch, 'cancelling')
  call('HSET', b, 'cancelling_at', at)
  call('ZREM', P .. 'q:' .. queue, member)
  call('SADD', P .. 'closing', batch)
  return 1
end
return 0
