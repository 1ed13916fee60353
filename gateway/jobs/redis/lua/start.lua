-- ARGV: batch, lines, model, at, id of its output file, id of its error file, queue. Gives 1, or 0 if not validating.
local batch, total, model, at, output, error_, queue = unpack(ARGV)
local b = P .. 'b:' .. batch
local status, last, expires, seq, tenant = unpack(call('HMGET', b, 'status', 'output', 'expires_at', 'seq', 'tenant'))
if status ~= 'validating' then return last == output and 1 or 0 end
for file, what in pairs({ [output] = 'output', [error_] = 'error' }) do
  call('HSET', P .. 'f:' .. file, 'tenant', tenant, 'filename', batch .. '_' .. what .. '.jsonl',
    'purpose', 'batch_output', 'bytes', 0, 'state', 'g')
end
local member = string.format('%015d:', seq) .. batch
call('HSET', b, 'total', total, 'model', model, 'in_progress_at', at, 'output', output, 'error', error_,
  'queue', queue, 'member', member)
set_status(batch, 'in_progress')
call('ZREM', P .. 'validating', batch)
call('SADD', P .. 'queues', queue)
call('ZADD', P .. 'q:' .. queue, expires, member)
if total == '0' then end_batch(batch, at) end
return 1
