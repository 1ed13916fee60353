-- ARGV: at most so many, not due again before, at. Gives {job, times called before} for each.
local due = {}
for _, job in ipairs(call('ZRANGEBYSCORE', P .. 'calls', '-inf', ARGV[3], 'LIMIT', 0, ARGV[1])) do
  call('ZADD', P .. 'calls', ARGV[2], job)
  due[#due + 1] = { job, call('HINCRBY', P .. 'j:' .. job, 'call_tries', 1) - 1 }
end
return due
