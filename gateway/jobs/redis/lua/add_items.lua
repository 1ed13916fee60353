-- ARGV: batch, then line, custom_id, start, length, member of each. Gives 1, or 0 if it is not validated any more.
local batch = ARGV[1]
if call('HGET', P .. 'b:' .. batch, 'status') ~= 'validating' then return 0 end
for n = 2, #ARGV, 5 do
  local i = P .. 'i:' .. batch .. ':' .. ARGV[n]
  local before = call('HGET', i, 'member')
  if before then call('ZREM', P .. 'r:' .. batch, before) end
  call('HSET', i, 'custom_id', ARGV[n + 1], 'start', ARGV[n + 2], 'length', ARGV[n + 3], 'member', ARGV[n + 4])
  call('ZADD', P .. 'r:' .. batch, 0, ARGV[n + 4])
end
return 1
