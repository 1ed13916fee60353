-- ARGV: owner, lease until, at. Gives the id of a batch, or ''.
local owner, till, at = ARGV[1], ARGV[2], tonumber(ARGV[3])
local free
for _, id in ipairs(call('ZRANGE', P .. 'validating', 0, -1)) do
  local its, until_, expires = unpack(call('HMGET', P .. 'b:' .. id, 'validator', 'validator_until', 'expires_at'))
  if tonumber(expires) > at then
    if its == owner then
      free = id
      break
    end
    if not free and number(until_) <= at then free = id end
  end
end
if not free then return '' end
call('HSET', P .. 'b:' .. free, 'validator', owner, 'validator_until', till)
return free
