-- ARGV: key, attempt, at, not before or '', what is counted: 'tries', 'displaced' or ''. Gives 1, or 0 if not held.
local key, attempt, at, not_before, counted = unpack(ARGV)
local i = P .. 'i:' .. key
local sid = held(key, attempt) and call('HGET', i, 'sid')
if not sid then return 0 end
unlease(key, sid)
local batch = line_of(key)
if counted ~= '' then
  call('HINCRBY', i, counted, 1)
  if not batch then call('HINCRBY', P .. 'j:' .. key, counted, 1)
  elseif counted == 'displaced' then call('HINCRBY', P .. 'b:' .. batch, counted, 1) end
end
if counted == 'displaced' then count('displaced') end
let_go(key, at, not_before ~= '' and not_before or nil)
return 1
