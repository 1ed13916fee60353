-- ARGV: file, at. The upload is whole. Gives 1, or 0 if it was cleared away.
local f = P .. 'f:' .. ARGV[1]
local state, expires = unpack(call('HMGET', f, 'state', 'expires_at'))
if state == 'r' then return 1 end
if state ~= 'w' then return 0 end
call('ZREM', P .. 'writing', ARGV[1])
show(ARGV[1], ARGV[2], expires)
return 1
