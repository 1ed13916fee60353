-- ARGV: key, attempt, at, '1' if completed, what goes into the record (a line; or a head and a body), tokens by kind (4)
-- Gives 1, or 0 if it was fenced. The mark lets a worker ask again whose answer was lost on the way.
local key, attempt, at, ok = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local mark = P .. 'fin:' .. key
if not held(key, attempt) then
  if call('GET', mark) == attempt then return 1 end
  count('late')
  return 0
end
local batch = line_of(key)
if batch then
  end_line(key, batch, ok, ARGV[5], {
    input_tokens = number(ARGV[7]), cached_tokens = number(ARGV[8]),
    output_tokens = number(ARGV[9]), reasoning_tokens = number(ARGV[10]),
  }, at)
else end_job(key, ok and 'completed' or 'failed', ARGV[5], ARGV[6], at) end
call('SET', mark, attempt, 'EX', 300)
return 1
