-- ARGV: owner, lease (ms), at, clock, then key and attempt of each claim. Gives {keys lost, keys to stop}.
local lost, stop = {}, {}
for n = 5, #ARGV, 2 do
  local key, attempt = ARGV[n], ARGV[n + 1]
  local sid = held(key, attempt) and call('HGET', P .. 'i:' .. key, 'sid')
  if not sid then lost[#lost + 1] = key
  else
    call('XCLAIM', LEASES[1], LEASES[2], ARGV[1], 0, sid, 'TIME', lease_clock(ARGV[4], ARGV[3]), 'JUSTID')
    call('HSET', P .. 'i:' .. key, 'lease', ARGV[2])
    if over(key, ARGV[3]) then stop[#stop + 1] = key end
  end
end
return { lost, stop }
