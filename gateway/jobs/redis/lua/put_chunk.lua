-- ARGV: file, number of the chunk, its bytes, at. Gives 1, or 0 if the upload was cleared away.
local f = P .. 'f:' .. ARGV[1]
if call('HGET', f, 'state') ~= 'w' then return 0 end
call('SET', P .. 'c:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[3])
call('HSET', f, 'bytes', string.format('%d', ARGV[2] * CHUNK + #ARGV[3]))
call('ZADD', P .. 'writing', ARGV[4], ARGV[1])
return 1
