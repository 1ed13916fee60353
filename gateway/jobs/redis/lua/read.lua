-- ARGV: tenant, file, start, end or ''. Gives bytes up to the end of one chunk, or an integer where there is no such file.
-- With tenant '': the input of the batch that is named instead of a file, also if it was deleted meanwhile.
local tenant, file = ARGV[1], ARGV[2]
if tenant == '' then
  local input, ended = unpack(call('HMGET', P .. 'b:' .. file, 'input_file_id', 'ended_at'))
  if not input or ended then return 0 end
  file = input
else
  local its, state = unpack(call('HMGET', P .. 'f:' .. file, 'tenant', 'state'))
  if its ~= tenant or state ~= 'r' then return 0 end
end
local start, stop = tonumber(ARGV[3]), tonumber(ARGV[4]) or 1e15
local from = start % CHUNK
local to = math.min(CHUNK, from + stop - start)
if to <= from then return '' end
return call('GETRANGE', P .. 'c:' .. file .. ':' .. string.format('%d', math.floor(start / CHUNK)), from, to - 1)
