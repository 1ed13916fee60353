-- ARGV: owner, limit, lease (ms), at, class or '', model or '', most bytes, clock, mark, then tenants to pass over
-- Gives {key, attempt, tries, lost, displaced, body, custom_id, fields of its batch or job ...} for each.
-- The mark names this claim: when its answer is lost on the way and it is made again, it gets the same items.
local owner, limit, lease, at = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local klass, model, most, clock = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local mark = P .. 'claimed:' .. ARGV[9]
local keys, size = {}, 0
local passed_over = {}
for n = 10, #ARGV do passed_over[ARGV[n]] = true end

local function of_all() return #ARGV < 10 end
local function is_wanted(record) return of_all() or not passed_over[call('HGET', record, 'tenant')] end

-- Members whose time has come go back in line.
local function wake(delayed, key_of)
  for _, member in ipairs(call('ZRANGEBYSCORE', delayed, '-inf', at, 'LIMIT', 0, 1000)) do
    call('ZREM', delayed, member)
    stand_in_line(key_of(member))
  end
end

local function job_of(member) return string.match(member, '(job_.*)$') end

local function batch_of(member) return string.match(member, '(batch_.*)$') end

-- Single jobs of a queue that may be claimed, `limit` of them.
local function add_jobs(found, queue)
  local from, most_found = 0, #found + limit
  repeat
    local jobs = call('ZRANGEBYSCORE', P .. 's:' .. queue, '(' .. at, '+inf', 'WITHSCORES', 'LIMIT', from, limit)
    for n = 1, #jobs, 2 do
      if #found < most_found and is_wanted(P .. 'j:' .. job_of(jobs[n])) then
        found[#found + 1] = { tonumber(jobs[n + 1]), 0, jobs[n], queue }
      end
    end
    from = from + limit
  until of_all() or #found == most_found or #jobs == 0
end

local function add_batches(found, queue)
  local batches = call('ZRANGEBYSCORE', P .. 'q:' .. queue, '(' .. at, '+inf', 'WITHSCORES')
  for n = 1, #batches, 2 do
    if is_wanted(P .. 'b:' .. batch_of(batches[n])) then
      found[#found + 1] = { tonumber(batches[n + 1]), 1, batches[n], queue }
    end
  end
end

-- Batches and single jobs that may be claimed, earliest deadline first; of equals, jobs before batches.
local function sources()
  local found = {}
  for _, queue in ipairs(call('SMEMBERS', P .. 'queues')) do
    local its_class, its_model = string.match(queue, '^(.-)\31(.*)$')
    if (klass == '' or klass == its_class) and (model == '' or model == its_model) then
      wake(P .. 'sd:' .. queue, job_of)
      add_jobs(found, queue)
      add_batches(found, queue)
    end
  end
  table.sort(found, function(one, two)
    for n = 1, 3 do
      if one[n] ~= two[n] then return one[n] < two[n] end
    end
    return false
  end)
  return found
end

-- `length` bytes of a file from `start` on, out of its chunks.
local function span(file, start, length)
  local parts = {}
  while length > 0 do
    local from = start % CHUNK
    local chunk = P .. 'c:' .. file .. ':' .. string.format('%d', math.floor(start / CHUNK))
    local part = call('GETRANGE', chunk, from, math.min(from + length, CHUNK) - 1)
    if part == '' then break end
    parts[#parts + 1] = part
    start, length = start + #part, length - #part
  end
  return table.concat(parts)
end

-- What a worker is told of an item in its hands.
local function describe(key)
  local i, batch = P .. 'i:' .. key, line_of(key)
  local its = call('HMGET', i, 'attempt', 'tries', 'lost', 'displaced', 'custom_id', 'start', 'length')
  local claim = { key, its[1], number(its[2]), number(its[3]), number(its[4]) }
  local of
  if batch then
    of = call('HMGET', P .. 'b:' .. batch, 'tenant', 'klass', 'model', 'endpoint', 'expires_at', 'key_digest', 'input_file_id')
    claim[6], claim[7] = span(table.remove(of), tonumber(its[6]), tonumber(its[7])), its[5]
  else
    of = call('HMGET', P .. 'j:' .. key, 'tenant', 'klass', 'model', 'path', 'deadline', 'key_digest', 'fields')
    claim[6], claim[7] = call('GET', P .. 'jb:' .. key), ''
  end
  for _, value in ipairs(of) do claim[#claim + 1] = value end
  return claim
end

-- False: no more fits.
local function take(key, bytes)
  size = size + bytes
  if #keys > 0 and size > most then return false end
  local i, batch = P .. 'i:' .. key, line_of(key)
  call('HINCRBY', i, 'attempt', 1)
  if call('HDEL', i, 'redo') == 1 then
    count('repeated')
    call('HINCRBY', batch and P .. 'b:' .. batch or P .. 'j:' .. key, 'repeated', 1)
  end
  keys[#keys + 1] = key
  return true
end

local function take_lines(member)
  local batch = batch_of(member)
  local r = P .. 'r:' .. batch
  local function key_of(its) return batch .. ':' .. tonumber(string.match(its, ' (%d+)$')) end
  wake(P .. 'd:' .. batch, key_of)
  for _, its in ipairs(call('ZRANGE', r, 0, limit - #keys - 1)) do
    local key = key_of(its)
    if not take(key, number(call('HGET', P .. 'i:' .. key, 'length'))) then return false end
    call('ZREM', r, its)
    call('HINCRBY', P .. 'b:' .. batch, 'claimed', 1)
  end
  return #keys < limit
end

local function take_job(member, queue)
  local job = job_of(member)
  local j = P .. 'j:' .. job
  if not take(job, call('STRLEN', P .. 'jb:' .. job)) then return false end
  call('ZREM', P .. 's:' .. queue, member)
  call('HINCRBY', P .. 'held', queue, 1)
  call('HSET', j, 'state', 'running')
  call('HSETNX', j, 'started_at', at)
  return #keys < limit
end

-- The leases: an entry for each item, read at once by this consumer. What else is found in the stream is not ours.
local function lease_all()
  local waited = {}
  for _, key in ipairs(keys) do
    local sid = call('XADD', LEASES[1], '*', 'key', key)
    call('HSET', P .. 'i:' .. key, 'sid', sid, 'owner', owner, 'lease', lease)
    waited[sid] = true
  end
  local left = #keys
  while left > 0 do
    local read = call('XREADGROUP', 'GROUP', LEASES[2], owner, 'COUNT', left, 'STREAMS', LEASES[1], '>')
    for _, entry in ipairs(read[1][2]) do
      if waited[entry[1]] then
        left = left - 1
      else
        call('XADD', P .. 'dead', 'MAXLEN', '~', 10000, '*', 'reason', 'foreign', 'id', entry[1])
        call('XACK', LEASES[1], LEASES[2], entry[1])
        call('XDEL', LEASES[1], entry[1])
        count('foreign')
      end
    end
  end
  if clock == 'caller' then
    for sid in pairs(waited) do
      call('XCLAIM', LEASES[1], LEASES[2], owner, 0, sid, 'TIME', lease_clock(clock, at), 'JUSTID')
    end
  end
  local least = call('GET', P .. 'least_lease')
  if not least or tonumber(least) > lease then call('SET', P .. 'least_lease', lease) end
end

redis.pcall('XGROUP', 'CREATE', LEASES[1], LEASES[2], '0', 'MKSTREAM')
local before = call('GET', mark)
if before then
  for key in string.gmatch(before, '%S+') do
    if call('HGET', P .. 'i:' .. key, 'owner') == owner then keys[#keys + 1] = key end
  end
else
  for _, source in ipairs(sources()) do
    local goes_on
    if source[2] == 0 then goes_on = take_job(source[3], source[4]) else goes_on = take_lines(source[3]) end
    if not goes_on then break end
  end
  if #keys > 0 then
    lease_all()
    call('SET', mark, table.concat(keys, ' '), 'EX', 60)
  end
end
local claims = {}
for n, key in ipairs(keys) do claims[n] = describe(key) end
return claims
