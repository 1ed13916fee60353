-- ARGV: queue, deadline. Gives how many items without a record have that deadline or an earlier one.
local ahead = call('ZCOUNT', P .. 'a:' .. ARGV[1], '-inf', ARGV[2])
for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'q:' .. ARGV[1], '-inf', ARGV[2])) do
  local total, completed, failed = unpack(call('HMGET', P .. 'b:' .. string.match(member, '(batch_.*)$'), 'total', 'completed', 'failed'))
  ahead = ahead + number(total) - number(completed) - number(failed)
end
return ahead
