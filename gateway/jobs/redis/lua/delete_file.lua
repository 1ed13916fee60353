-- ARGV: tenant, file. Gives 1, or 0 if there is no such file. With tenant '': an upload that ended early.
local f = P .. 'f:' .. ARGV[2]
local tenant, state = unpack(call('HMGET', f, 'tenant', 'state'))
if ARGV[1] == '' and state == 'w' then
  call('ZREM', P .. 'writing', ARGV[2])
  hide(ARGV[2])
  return 1
end
if tenant ~= ARGV[1] or state ~= 'r' then return 0 end
hide(ARGV[2])
return 1
